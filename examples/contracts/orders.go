package contracts

import (
	"time"

	"github.com/surge-go/surge/cqrs"
)

// Line is how many units of a product an order has.
type Line struct {
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
}

// OrderPlaced says that a customer ordered this. It starts the fulfilment.
type OrderPlaced struct {
	OrderID  string    `json:"order_id"`
	Customer string    `json:"customer"`
	Card     string    `json:"card"` // the token of a card, not its number
	Lines    []Line    `json:"lines"`
	Total    int64     `json:"total"`
	PlacedAt time.Time `json:"placed_at"`
}

// OrderConfirmed says that the order is paid and its stock is taken. It is also the answer to [ConfirmOrder].
type OrderConfirmed struct {
	OrderID string `json:"order_id"`
}

// OrderRejected says that the order will not be fulfilled.
type OrderRejected struct {
	OrderID string `json:"order_id"`
	Reason  string `json:"reason"`
}

// CancelRequested says that the customer changed their mind.
type CancelRequested struct {
	OrderID string `json:"order_id"`
}

// OrderCancelled says that nothing is left of the order. It is also the answer to [CancelOrder].
type OrderCancelled struct {
	OrderID string `json:"order_id"`
}

// ConfirmOrder closes an order whose steps are done.
type ConfirmOrder struct {
	cqrs.Returns[OrderConfirmed] `json:"-"`

	OrderID string `json:"order_id"`
}

// RejectOrder closes an order whose steps were undone.
type RejectOrder struct {
	OrderID string `json:"order_id"`
	Reason  string `json:"reason"`
}

// CancelOrder closes an order that was refunded.
type CancelOrder struct {
	cqrs.Returns[OrderCancelled] `json:"-"`

	OrderID string `json:"order_id"`
}

// Orders lists the order service's messages.
func Orders() []cqrs.Type {
	return []cqrs.Type{
		event("orders.placed", func(e OrderPlaced) string { return e.OrderID }),
		event("orders.confirmed", func(e OrderConfirmed) string { return e.OrderID }),
		event("orders.rejected", func(e OrderRejected) string { return e.OrderID }),
		event("orders.cancel-requested", func(e CancelRequested) string { return e.OrderID }),
		event("orders.cancelled", func(e OrderCancelled) string { return e.OrderID }),
		command("orders.confirm", func(c ConfirmOrder) string { return c.OrderID }),
		command("orders.reject", func(c RejectOrder) string { return c.OrderID }),
		command("orders.cancel", func(c CancelOrder) string { return c.OrderID }),
	}
}
