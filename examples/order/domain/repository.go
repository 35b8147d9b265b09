package domain

import (
	"context"

	"github.com/surge-go/surge/cqrs/aggregate"
)

// Orders is the port through which orders are kept, in the transaction in ctx. Orders are never deleted.
type Orders interface {
	// Get loads an order, or returns aggregate.ErrNotFound.
	Get(ctx context.Context, id OrderID) (*Order, error)
	// Save keeps an order and publishes what it recorded, in the same transaction. It returns aggregate.ErrExists
	// for a new one whose ID is taken, and aggregate.ErrConflict if somebody else has saved it since.
	Save(ctx context.Context, o *Order) error
}

var _ Orders = aggregate.Repository[Order, OrderID](nil)

// Prices is the port to what a unit of a product costs now.
type Prices interface {
	// Price returns false for a product that the shop does not sell.
	Price(sku SKU) (Money, bool)
}
