// Package shipping is the shipping service: it sends parcels, and hosts the saga that fulfils an order.
package shipping

import (
	"context"
	"errors"
	"time"

	"gorm.io/gorm"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/examples/internal/unit"
	"github.com/surge-go/surge/examples/shipping/adapters"
	"github.com/surge-go/surge/examples/shipping/app"
	"github.com/surge-go/surge/saga"
)

// Open wires the service. It starts nothing; its Run does.
func Open(ctx context.Context, cfg unit.Config) (*unit.Unit, error) {
	cfg.Migrations = []func(context.Context, *gorm.DB) error{saga.Migrate, adapters.Migrate}
	u, err := unit.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	shipments := &app.Shipments{Repository: adapters.NewShipments(u.Sender), Now: time.Now}
	unit.Participant(u, shipments.Create, shipments.Cancel)
	cqrs.Handle(u.Processor, shipments.Dispatch) // a shipment knows what it has done: these need no memory
	cqrs.Handle(u.Processor, shipments.Recall)

	engine, err := saga.NewEngine(u.Processor, saga.EngineConfig{DeadLetters: u.DeadLetters, Logger: u.Logger()})
	if err != nil {
		return nil, errors.Join(err, u.Close())
	}
	fulfil := saga.Register(engine, app.Fulfil)
	saga.StartOn(fulfil, app.Begin)
	saga.CancelOn(fulfil, func(e contracts.CancelRequested) (key, reason string) {
		return e.OrderID, "cancelled_by_customer"
	})
	u.Add(engine)

	u.Serve(adapters.API{Reads: adapters.NewReads(u.DB()), Saga: fulfil}.Handler())
	return u, nil
}
