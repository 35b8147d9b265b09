package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/surge-go/surge/examples/gateway"
)

// routes is what the shop's door opens to.
func routes() []gateway.Route {
	return []gateway.Route{
		{
			Upstream: "POST /api/orders", Service: orderService, Downstream: "/v1/orders",
			Auth: true, Admit: true, Rate: 20_000, Timeout: 5 * time.Second,
		},
		{
			Upstream: "POST /api/orders/{id}/cancel", Service: orderService, Downstream: "/v1/orders/{id}/cancel",
			Auth: true,
		},
		{
			Upstream: "GET /api/orders/{id}", Service: orderService, Downstream: "/v1/orders/{id}",
			Auth: true, Tries: 3,
		},
		{Upstream: "GET /api/orders", Service: orderService, Downstream: "/v1/orders", Auth: true, Tries: 3},
		{
			Upstream: "GET /api/products", Service: inventoryService, Downstream: "/v1/products",
			Tries: 3, Cache: 500 * time.Millisecond,
		},
		{
			Upstream: "GET /api/products/{sku}/availability", Service: inventoryService,
			Downstream: "/v1/products/{sku}/availability", Tries: 3, Cache: 100 * time.Millisecond,
		},
	}
}

// aggregates are the answers that several services give together.
func aggregates() []gateway.Aggregate {
	return []gateway.Aggregate{{
		Upstream: "GET /api/orders/{id}/view", Auth: true,
		Parts: []gateway.Part{
			{Name: "order", Service: orderService, Downstream: "/v1/orders/{id}"},
			{Name: "payment", Service: paymentService, Downstream: "/v1/payments/{id}"},
			{Name: "shipment", Service: shippingService, Downstream: "/v1/shipments/{id}"},
		},
	}}
}

// admission keeps so few orders under way that what is accepted can be finished in the last part of the run.
func (s *shop) admission(orders string) gateway.Admission {
	limit := min(max(int(s.opts.duration.Seconds()*40), 100), 1500)
	if s.opts.batch == 1 {
		limit = max(limit/10, 50)
	}
	return gateway.Admission{
		Limit: limit, Wait: 800 * time.Millisecond, Interval: 40 * time.Millisecond,
		Gauge: func(c *http.Client) (int, error) { return backlog(c, orders) },
	}
}

var errNoGauge = errors.New("the order service does not say how many orders are under way")

func backlog(c *http.Client, orders string) (int, error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, orders+"/v1/backlog", http.NoBody)
	if err != nil {
		return 0, err
	}
	res, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	var gauge struct{ Open int }
	if err := json.NewDecoder(res.Body).Decode(&gauge); err != nil || res.StatusCode != http.StatusOK {
		return 0, errNoGauge
	}
	return gauge.Open, nil
}
