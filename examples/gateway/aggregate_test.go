package gateway_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/surge-go/surge/examples/gateway"
)

func TestAggregateServesWhatItHas(t *testing.T) {
	t.Parallel()
	var orderStatus, paymentStatus atomic.Int64
	part := func(status *atomic.Int64, body string) string {
		return serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(int(status.Load()))
			_, _ = io.WriteString(w, body)
		})
	}
	ask := door(t, gateway.Config{
		Services: map[string][]string{
			"order": {part(&orderStatus, `{"id":"o-1"}`)}, "payment": {part(&paymentStatus, `{"status":"captured"}`)},
		},
		Aggregates: []gateway.Aggregate{{Upstream: "GET /api/orders/{id}/view", Parts: []gateway.Part{
			{Name: "order", Service: "order", Downstream: "/v1/orders/{id}"},
			{Name: "payment", Service: "payment", Downstream: "/v1/payments/{id}"},
		}}},
	})
	for _, c := range []struct {
		order, payment, status int64
		want                   string
	}{
		{200, 200, 200, `{"order":{"id":"o-1"},"payment":{"status":"captured"},"problems":[]}`},
		{200, 404, 200, `{"order":{"id":"o-1"},"payment":null,"problems":[]}`},
		{200, 501, 200, `{"order":{"id":"o-1"},"payment":null,"problems":[{"part":"payment","status":501,` +
			`"detail":"The service answered 501."}]}`},
		{404, 200, 404, ""},
	} {
		orderStatus.Store(c.order)
		paymentStatus.Store(c.payment)
		got := ask("GET", "/api/orders/o-1/view")
		if got.status != int(c.status) || c.want != "" && strings.TrimSpace(got.body) != c.want {
			t.Errorf("order %d, payment %d: %+v", c.order, c.payment, got)
		}
		if !json.Valid([]byte(got.body)) {
			t.Errorf("not JSON: %s", got.body)
		}
	}
}

// A part that begins and does not end is missing from the answer, like one that does not begin.
func TestAggregateDoesNotWaitForABodyThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	ask := door(t, gateway.Config{
		Services: map[string][]string{
			"order": {serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"id":"o-1"}`) })},
			"shipping": {serve(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, `{"status":`)
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			})},
		},
		Aggregates: []gateway.Aggregate{{
			Upstream: "GET /api/orders/{id}/view", Timeout: 200 * time.Millisecond, Parts: []gateway.Part{
				{Name: "order", Service: "order", Downstream: "/v1/orders/{id}"},
				{Name: "shipment", Service: "shipping", Downstream: "/v1/shipments/{id}"},
			},
		}},
	})
	got := ask("GET", "/api/orders/o-1/view")
	if got.status != 200 || !strings.Contains(got.body, `"part":"shipment","status":504`) {
		t.Errorf("%+v", got)
	}
}

// The time that an aggregate gives a part counts against its service.
func TestAggregateOpensTheBreakerOfASlowService(t *testing.T) {
	t.Parallel()
	ask := door(t, gateway.Config{
		Services: map[string][]string{
			"order": {serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })},
		},
		Aggregates: []gateway.Aggregate{{
			Upstream: "GET /api/x", Timeout: 100 * time.Millisecond,
			Parts: []gateway.Part{{Name: "order", Service: "order", Downstream: "/v1/x"}},
		}},
		Breaker: gateway.BreakerConfig{Failures: 2, Cooldown: time.Hour},
	})
	for _, want := range []int{504, 504, 503} {
		if got := ask("GET", "/api/x"); got.status != want {
			t.Errorf("%+v, want %d", got, want)
		}
	}
}
