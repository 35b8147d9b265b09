package domain

import "time"

// OrderPlaced says that a customer wants this, at this price.
type OrderPlaced struct {
	ID       OrderID
	Customer CustomerID
	Lines    []Line
	Total    Money
	Card     string
	At       time.Time
}

// OrderConfirmed says that the order is paid and its stock is taken.
type OrderConfirmed struct {
	ID OrderID
	At time.Time
}

// OrderRejected says that the order will not be fulfilled, and why.
type OrderRejected struct {
	ID     OrderID
	Reason string
	At     time.Time
}

// CancelRequested says that the customer changed their mind. Whether the order's steps are undone
// or the money is refunded depends on how far it came.
type CancelRequested struct {
	ID OrderID
	At time.Time
}

// OrderCancelled says that nothing is left of the order: no stock, no charge.
type OrderCancelled struct {
	ID OrderID
	At time.Time
}
