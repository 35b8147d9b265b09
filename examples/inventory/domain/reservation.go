package domain

import (
	"errors"
	"fmt"
	"slices"

	"github.com/surge-go/surge/cqrs/aggregate"
)

var (
	// ErrInvalid is wrapped by every refusal of a value.
	ErrInvalid = errors.New("inventory: invalid")
	// ErrWrongState is returned for a move that the reservation's state does not allow.
	ErrWrongState = errors.New("inventory: not possible in this state")
)

// OrderID names the order that a reservation belongs to.
type OrderID string

// SKU names a product.
type SKU string

// Line is how many units of a product an order wants.
type Line struct {
	SKU      SKU
	Quantity int
}

// Status says where a reservation stands.
type Status string

// The states of a reservation; see the package's comment for the moves.
const (
	Held      Status = "held"
	Committed Status = "committed"
	Released  Status = "released"
)

// Events of a reservation.
type (
	// StockReserved says that the units are off the shelf, for this order alone.
	StockReserved struct {
		OrderID OrderID
		Lines   []Line
	}
	// StockCommitted says that the units are sold.
	StockCommitted struct{ OrderID OrderID }
	// StockReleased says that the units are on the shelf again.
	StockReleased struct{ OrderID OrderID }
)

// Reservation is the aggregate: units set aside for one order. It is not safe for concurrent use.
type Reservation struct {
	aggregate.Root
	id     OrderID
	lines  []Line
	status Status
}

// Reserve is the factory of new reservations. It refuses no lines, a product twice and what is not positive.
// Taking the units off the shelf is the caller's other half, in the same transaction.
func Reserve(id OrderID, lines []Line) (*Reservation, error) {
	if id == "" || len(lines) == 0 {
		return nil, fmt.Errorf("%w: a reservation has an order and lines", ErrInvalid)
	}
	for i, l := range lines {
		if l.SKU == "" || l.Quantity < 1 {
			return nil, fmt.Errorf("%w: %d units of %q", ErrInvalid, l.Quantity, l.SKU)
		}
		if slices.ContainsFunc(lines[:i], func(m Line) bool { return m.SKU == l.SKU }) {
			return nil, fmt.Errorf("%w: %s is in two lines", ErrInvalid, l.SKU)
		}
	}
	r := &Reservation{id: id, lines: slices.Clone(lines), status: Held}
	r.Record(StockReserved{OrderID: id, Lines: r.lines})
	return r, nil
}

// Restore is the factory of reservations that were saved before.
func Restore(id OrderID, lines []Line, status Status, version int64) *Reservation {
	r := &Reservation{id: id, lines: lines, status: status}
	r.Saved(version)
	return r
}

// OrderID names the order that the units are for.
func (r *Reservation) OrderID() OrderID { return r.id }

// Lines returns what is reserved. The slice belongs to the reservation.
func (r *Reservation) Lines() []Line { return r.lines }

// Status says where the reservation stands.
func (r *Reservation) Status() Status { return r.status }

// Commit says that the units are sold. Committing twice does nothing.
func (r *Reservation) Commit() error {
	switch r.status {
	case Committed:
		return nil
	case Held:
		r.status = Committed
		r.Record(StockCommitted{OrderID: r.id})
		return nil
	default:
		return fmt.Errorf("%w: %s is %s and cannot be committed", ErrWrongState, r.id, r.status)
	}
}

// Release gives the units up and reports which go back to the shelf: none when they went before.
// Sold units are released too, as returned goods.
func (r *Reservation) Release() []Line {
	if r.status == Released {
		return nil
	}
	r.status = Released
	r.Record(StockReleased{OrderID: r.id})
	return r.lines
}
