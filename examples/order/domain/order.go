package domain

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/surge-go/surge/cqrs/aggregate"
)

// Status says where an order stands.
type Status string

// The states of an order; see the package's comment for the moves.
const (
	Pending   Status = "pending"
	Confirmed Status = "confirmed"
	Rejected  Status = "rejected"
	Cancelled Status = "cancelled"
)

// Final reports whether the saga that fulfils the order has decided.
func (s Status) Final() bool { return s == Confirmed || s == Rejected || s == Cancelled }

// ErrWrongState is returned for a move that the order's state does not allow.
var ErrWrongState = errors.New("order: not possible in this state")

// Order is the aggregate: what a customer wants and what became of it. It is changed by its methods alone,
// and not safe for concurrent use.
type Order struct {
	aggregate.Root
	s Snapshot
}

// Snapshot is the state of an order, for repositories and views.
type Snapshot struct {
	ID              OrderID
	Customer        CustomerID
	Lines           []Line
	Total           Money
	Card            string
	Status          Status
	Reason          string // why it was rejected
	CancelRequested bool
	PlacedAt        time.Time
	ClosedAt        time.Time // when it was confirmed, rejected or cancelled; zero while pending
}

// Place is the factory of new orders. It refuses an order without lines, with too many, with one product twice,
// and one that is free of charge.
func Place(id OrderID, customer CustomerID, card string, lines []Line, at time.Time) (*Order, error) {
	if id == "" || customer == "" {
		return nil, fmt.Errorf("%w: an order has an ID and a customer", ErrInvalid)
	}
	if len(card) > 100 {
		return nil, fmt.Errorf("%w: a card's token has up to 100 bytes, not %d", ErrInvalid, len(card))
	}
	total, err := sum(lines)
	if err != nil {
		return nil, err
	}
	o := &Order{s: Snapshot{
		ID: id, Customer: customer, Card: card, Lines: slices.Clone(lines), Total: total,
		Status: Pending, PlacedAt: at,
	}}
	o.Record(OrderPlaced{ID: id, Customer: customer, Card: card, Lines: o.s.Lines, Total: total, At: at})
	return o, nil
}

func sum(lines []Line) (Money, error) {
	if len(lines) == 0 || len(lines) > MaxLines {
		return 0, fmt.Errorf("%w: an order has 1 to %d lines, not %d", ErrInvalid, MaxLines, len(lines))
	}
	var total Money
	for i, l := range lines {
		if slices.ContainsFunc(lines[:i], func(m Line) bool { return m.SKU == l.SKU }) {
			return 0, fmt.Errorf("%w: %s is in two lines", ErrInvalid, l.SKU)
		}
		price, err := l.Total()
		if err != nil {
			return 0, err
		}
		if total, err = total.Plus(price); err != nil {
			return 0, err
		}
	}
	if total == 0 {
		return 0, fmt.Errorf("%w: an order is not free of charge", ErrInvalid)
	}
	return total, nil
}

// Restore is the factory of orders that were saved before.
func Restore(s Snapshot, version int64) *Order {
	o := &Order{s: s}
	o.Saved(version)
	return o
}

// Snapshot returns the order's state. Its lines belong to the order.
func (o *Order) Snapshot() Snapshot { return o.s }

// ID names the order.
func (o *Order) ID() OrderID { return o.s.ID }

// Status says where the order stands.
func (o *Order) Status() Status { return o.s.Status }

// Confirm is the saga's word that everything is done. A customer may have asked to cancel in between: the saga
// knows, and undoes it next. Confirming twice does nothing.
func (o *Order) Confirm(at time.Time) error {
	switch o.s.Status {
	case Confirmed:
		return nil
	case Pending:
	default:
		return fmt.Errorf("%w: %s is %s and cannot be confirmed", ErrWrongState, o.s.ID, o.s.Status)
	}
	o.s.Status, o.s.ClosedAt = Confirmed, at
	o.Record(OrderConfirmed{ID: o.s.ID, At: at})
	return nil
}

// Reject is the saga's word that the order cannot be fulfilled and that all was undone. An order
// whose cancellation was requested is cancelled instead: nobody minds why else it would have failed.
// Rejecting twice does nothing.
func (o *Order) Reject(reason string, at time.Time) error {
	switch o.s.Status {
	case Rejected, Cancelled:
		return nil
	case Pending:
	default:
		return fmt.Errorf("%w: %s is %s and cannot be rejected", ErrWrongState, o.s.ID, o.s.Status)
	}
	if o.s.CancelRequested {
		o.cancel(at)
		return nil
	}
	o.s.Status, o.s.Reason, o.s.ClosedAt = Rejected, reason, at
	o.Record(OrderRejected{ID: o.s.ID, Reason: reason, At: at})
	return nil
}

// RequestCancel is the customer's wish. It changes no outcome by itself. Asking twice does nothing; an order
// that was rejected cannot be cancelled.
func (o *Order) RequestCancel(at time.Time) error {
	switch {
	case o.s.Status == Rejected:
		return fmt.Errorf("%w: %s is rejected and cannot be cancelled", ErrWrongState, o.s.ID)
	case o.s.CancelRequested:
		return nil
	}
	o.s.CancelRequested = true
	o.Record(CancelRequested{ID: o.s.ID, At: at})
	return nil
}

// Cancel is the saga's word that the money went back and the stock too, whether or not it had come to confirm the
// order. Cancelling twice does nothing.
func (o *Order) Cancel(at time.Time) error {
	switch o.s.Status {
	case Cancelled:
		return nil
	case Pending, Confirmed:
	default:
		return fmt.Errorf("%w: %s is %s, there is nothing to refund", ErrWrongState, o.s.ID, o.s.Status)
	}
	o.cancel(at)
	return nil
}

func (o *Order) cancel(at time.Time) {
	o.s.Status, o.s.ClosedAt = Cancelled, at
	o.Record(OrderCancelled{ID: o.s.ID, At: at})
}
