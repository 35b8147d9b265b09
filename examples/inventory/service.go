// Package inventory is the inventory service: it knows what is on the shelf and for whom it is set aside.
package inventory

import (
	"context"
	"errors"

	"gorm.io/gorm"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/examples/internal/unit"
	"github.com/surge-go/surge/examples/inventory/adapters"
	"github.com/surge-go/surge/examples/inventory/app"
	"github.com/surge-go/surge/examples/inventory/domain"
	"github.com/surge-go/surge/saga"
)

// Config configures the service.
type Config struct {
	unit.Config

	Stock map[string]int // units of products, added if they are not there yet
}

// Open wires the service. It starts nothing; its Run does.
func Open(ctx context.Context, cfg Config) (*unit.Unit, error) {
	cfg.Migrations = []func(context.Context, *gorm.DB) error{saga.Migrate, adapters.Migrate}
	u, err := unit.Open(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	if err := adapters.Seed(ctx, u.DB(), cfg.Stock); err != nil {
		return nil, errors.Join(err, u.Close())
	}
	var shelf domain.Shelf = adapters.Shelf{}
	if u.Unsafe().Stock {
		shelf = adapters.NaiveShelf{DB: u.DB()}
	}
	stock := &app.Stock{Shelf: shelf, Reservations: adapters.NewReservations(u.Sender)}

	unit.Participant(u, stock.Reserve, stock.Release, cqrs.Locks(app.Locks))
	cqrs.Handle(u.Processor, stock.Commit) // a reservation knows what it has done: these need no memory of their own
	cqrs.Handle(u.Processor, stock.Return)
	cqrs.Handle(u.Processor, adapters.SetStock)

	u.Serve(adapters.API{Processor: u.Processor, Reads: adapters.NewReads(u.DB())}.Handler())
	return u, nil
}
