package app

import (
	"time"

	"github.com/surge-go/surge/cqrs/query"
)

// GetOrder asks for one order of a customer. The answer to a customer's question about somebody else's order is
// aggregate.ErrNotFound.
type GetOrder struct {
	query.Returns[OrderView]

	ID, Customer string
}

// ListOrders asks for a customer's orders, newest first, a page at a time.
type ListOrders struct {
	query.Returns[OrderPage]

	Customer string
	Cursor   string // of the page before; "" for the first
	Limit    int    // 1 to 100
}

// CountPending asks how many orders are under way.
type CountPending struct {
	query.Returns[int]
}

// OrderView is an order as its customer sees it.
type OrderView struct {
	ID              string     `json:"id"`
	Status          string     `json:"status"`
	Reason          string     `json:"reason,omitempty"`
	CancelRequested bool       `json:"cancel_requested,omitempty"`
	Lines           []LineView `json:"lines"`
	Total           int64      `json:"total"`
	PlacedAt        time.Time  `json:"placed_at"`
	ClosedAt        *time.Time `json:"closed_at,omitempty"`
}

// LineView is a line as its customer sees it.
type LineView struct {
	SKU       string `json:"sku"`
	Quantity  int    `json:"quantity"`
	UnitPrice int64  `json:"unit_price"`
}

// OrderPage is a page of a list.
type OrderPage struct {
	Orders []OrderView `json:"orders"`
	Next   string      `json:"next,omitempty"` // the cursor of the next page; "" on the last
}
