package domain

import (
	"context"
	"fmt"

	"github.com/surge-go/surge/cqrs/aggregate"
)

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

// Shelf is the port to the free units. Both methods act inside the transaction in ctx.
type Shelf interface {
	// Take takes all the lines off the shelf, or none of them and returns a [*SoldOutError].
	Take(ctx context.Context, lines []Line) error
	// Return puts the lines back.
	Return(ctx context.Context, lines []Line) error
}

// Reservations is the port through which reservations are kept. Saving publishes what they recorded.
type Reservations = aggregate.Repository[Reservation, OrderID]

// Short returns a [*SoldOutError] for the first line that free cannot serve; a product that free lacks has none left.
func Short(lines []Line, free map[SKU]int) error {
	for _, l := range lines {
		if free[l.SKU] < l.Quantity {
			return &SoldOutError{SKU: l.SKU, Free: free[l.SKU]}
		}
	}
	return nil
}
