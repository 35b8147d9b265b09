package domain

import "github.com/surge-go/surge/cqrs/aggregate"

// Orders is the port through which orders are kept. Saving publishes what an order recorded,
// in the same transaction.
type Orders = aggregate.Repository[Order, OrderID]

// Prices is the port to what a unit of a product costs now.
type Prices interface {
	// Price returns false for a product that the shop does not sell.
	Price(sku SKU) (Money, bool)
}
