package contracts

import "github.com/surge-go/surge/cqrs"

// StockReserved says that units are set aside for an order: the answer to [ReserveStock].
type StockReserved struct {
	OrderID string `json:"order_id"`
}

// StockReleased says that an order's units are on the shelf again. It is also the answer to [ReturnStock].
type StockReleased struct {
	OrderID string `json:"order_id"`
}

// StockCommitted says that an order's units are sold: the answer to [CommitStock].
type StockCommitted struct {
	OrderID string `json:"order_id"`
}

// SoldOut is the code of the rejection of [ReserveStock] when too few units are left.
const SoldOut = "sold_out"

// ReserveStock sets units aside for an order: all lines or none.
type ReserveStock struct {
	cqrs.Returns[StockReserved] `json:"-"`

	OrderID string `json:"order_id"`
	Lines   []Line `json:"lines"`
}

// ReleaseStock undoes [ReserveStock].
type ReleaseStock struct {
	OrderID string `json:"order_id"`
}

// CommitStock sells the units that were set aside.
type CommitStock struct {
	cqrs.Returns[StockCommitted] `json:"-"`

	OrderID string `json:"order_id"`
}

// ReturnStock puts the units of a cancelled order back.
type ReturnStock struct {
	cqrs.Returns[StockReleased] `json:"-"`

	OrderID string `json:"order_id"`
}

// Inventory lists the inventory service's messages.
func Inventory() []cqrs.Type {
	return []cqrs.Type{
		event("inventory.released", func(e StockReleased) string { return e.OrderID }),
		command("inventory.reserve", func(c ReserveStock) string { return c.OrderID }),
		command("inventory.release", func(c ReleaseStock) string { return c.OrderID }),
		command("inventory.commit", func(c CommitStock) string { return c.OrderID }),
		command("inventory.return", func(c ReturnStock) string { return c.OrderID }),
	}
}
