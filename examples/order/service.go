// Package order is the order service: it takes customers' orders and keeps what becomes of them.
package order

import (
	"context"
	"errors"
	"net/http"
	"time"

	"gorm.io/gorm"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/examples/internal/unit"
	"github.com/surge-go/surge/examples/internal/web"
	"github.com/surge-go/surge/examples/order/adapters"
	"github.com/surge-go/surge/examples/order/app"
	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/saga"
)

// Config configures the service.
type Config struct {
	unit.Config

	Prices map[string]int64 // in cents, added to the price list if they are not in it
}

// Open wires the service. It starts nothing; its Run does.
func Open(ctx context.Context, cfg Config) (*unit.Unit, error) {
	cfg.Migrations = []func(context.Context, *gorm.DB) error{saga.Migrate, adapters.Migrate}
	u, err := unit.Open(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	prices, err := adapters.LoadPrices(ctx, u.DB(), cfg.Prices)
	if err != nil {
		return nil, errors.Join(err, u.Close())
	}
	orders := &app.Orders{Repository: adapters.NewOrders(u.Sender), Prices: prices, Now: time.Now}

	cqrs.Handle(u.Processor, orders.Place)
	cqrs.Handle(u.Processor, orders.RequestCancel)
	cqrs.Handle(u.Processor, orders.Confirm) // an order knows what it has done: these need no memory of their own
	cqrs.Handle(u.Processor, orders.Cancel)
	cqrs.On(u.Processor, orders.Reject)

	api := adapters.API{Processor: u.Processor, Reads: adapters.NewReads(u.DB()), Once: once(u)}
	u.Serve(api.Handler())
	return u, nil
}

// once makes requests with the same key happen once, or not.
func once(u *unit.Unit) func(http.Handler) http.Handler {
	if u.Unsafe().Idempotency {
		return nil
	}
	return idempotency.ForCommands(u.Keys, web.Scope, idempotency.MiddlewareConfig{
		Wait: time.Second, Logger: u.Logger(),
	})
}
