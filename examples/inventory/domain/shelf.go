package domain

import (
	"context"
	"errors"
	"fmt"

	"github.com/surge-go/surge/cqrs/aggregate"
)

// ErrTaken is returned by a [Shelf] when units that were free are so no longer. It passes: ask again what is free.
var ErrTaken = errors.New("inventory: somebody else was faster")

// Product is a product and its units: how many there were at first and how many are free.
type Product struct {
	SKU    SKU
	Seeded int
	Free   int
}

// SoldOutError says which product is not there in the wanted quantity.
type SoldOutError struct {
	SKU  SKU
	Free int
}

func (e *SoldOutError) Error() string { return fmt.Sprintf("%s: only %d left", e.SKU, e.Free) }

// Shelf is the port to the free units. All methods act inside the transaction in ctx.
type Shelf interface {
	// Free returns how many units of the lines' products are free. A product that is not there has none.
	Free(ctx context.Context, lines []Line) (map[SKU]int, error)
	// Take takes the lines off the shelf, or returns [ErrTaken].
	Take(ctx context.Context, lines []Line) error
	// Return puts the lines back.
	Return(ctx context.Context, lines []Line) error
}

// Reservations is the port through which reservations are kept. Saving publishes what they recorded.
type Reservations interface {
	// Get loads a reservation, or returns aggregate.ErrNotFound.
	Get(ctx context.Context, id OrderID) (*Reservation, error)
	// Save inserts a reservation at version 0, or returns aggregate.ErrExists; it updates any other, or returns
	// aggregate.ErrConflict.
	Save(ctx context.Context, r *Reservation) error
}

var _ Reservations = aggregate.Repository[Reservation, OrderID](nil)

// Short returns a [*SoldOutError] for the first line that free cannot serve; a product that free lacks has none left.
func Short(lines []Line, free map[SKU]int) error {
	for _, l := range lines {
		if free[l.SKU] < l.Quantity {
			return &SoldOutError{SKU: l.SKU, Free: free[l.SKU]}
		}
	}
	return nil
}
