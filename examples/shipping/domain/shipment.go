package domain

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/surge-go/surge/cqrs/aggregate"
)

var (
	// ErrInvalid is wrapped by every refusal of a value.
	ErrInvalid = errors.New("shipping: invalid")
	// ErrWrongState is returned for a move that the shipment's state does not allow.
	ErrWrongState = errors.New("shipping: not possible in this state")
)

// OrderID names the order that a shipment belongs to.
type OrderID string

// Status says where a shipment stands.
type Status string

// The states of a shipment; see the package's comment for the moves.
const (
	Prepared   Status = "prepared"
	Dispatched Status = "dispatched"
	Cancelled  Status = "cancelled"
	Returned   Status = "returned"
)

// Events of a shipment.
type (
	// ShipmentCreated says that a parcel can be sent.
	ShipmentCreated struct{ OrderID OrderID }
	// ShipmentDispatched says that it is on its way.
	ShipmentDispatched struct {
		OrderID OrderID
		At      time.Time
	}
	// ShipmentCancelled says that it stays here, or comes back.
	ShipmentCancelled struct{ OrderID OrderID }
)

// Shipments is the port through which shipments are kept, in the transaction in ctx. They are never deleted.
type Shipments interface {
	// Get loads a shipment, or returns aggregate.ErrNotFound.
	Get(ctx context.Context, id OrderID) (*Shipment, error)
	// Save keeps a shipment and publishes what it recorded, in the same transaction. It returns aggregate.ErrExists
	// for a new one whose ID is taken, and aggregate.ErrConflict if somebody else has saved it since.
	Save(ctx context.Context, s *Shipment) error
}

var _ Shipments = aggregate.Repository[Shipment, OrderID](nil)

// Shipment is the aggregate. It is not safe for concurrent use.
type Shipment struct {
	aggregate.Root
	s Snapshot
}

// Snapshot is the state of a shipment, for repositories and views.
type Snapshot struct {
	OrderID      OrderID
	Customer     string
	Parcels      int
	Status       Status
	DispatchedAt time.Time // zero until then
}

// MaxUnits is how many units fit in one shipment.
const MaxUnits = 5000

// Prepare is the factory of new shipments. It refuses what no van can carry.
func Prepare(id OrderID, customer string, units int) (*Shipment, error) {
	if id == "" || customer == "" || units < 1 || units > MaxUnits {
		return nil, fmt.Errorf("%w: a shipment has an order, a customer and 1 to %d units", ErrInvalid, MaxUnits)
	}
	const perParcel = 10
	s := &Shipment{s: Snapshot{
		OrderID: id, Customer: customer, Parcels: (units + perParcel - 1) / perParcel, Status: Prepared,
	}}
	s.Record(ShipmentCreated{OrderID: id})
	return s, nil
}

// Restore is the factory of shipments that were saved before.
func Restore(s Snapshot, version int64) *Shipment {
	sh := &Shipment{s: s}
	sh.Saved(version)
	return sh
}

// Snapshot returns the shipment's state.
func (s *Shipment) Snapshot() Snapshot { return s.s }

// OrderID names the order that the shipment belongs to.
func (s *Shipment) OrderID() OrderID { return s.s.OrderID }

// Status says where the shipment stands.
func (s *Shipment) Status() Status { return s.s.Status }

// Dispatch hands the shipment over. Doing so twice does nothing.
func (s *Shipment) Dispatch(at time.Time) error {
	switch s.s.Status {
	case Dispatched:
		return nil
	case Prepared:
		s.s.Status, s.s.DispatchedAt = Dispatched, at
		s.Record(ShipmentDispatched{OrderID: s.s.OrderID, At: at})
		return nil
	default:
		return fmt.Errorf("%w: %s is %s and cannot be dispatched", ErrWrongState, s.s.OrderID, s.s.Status)
	}
}

// Cancel stops the shipment, or calls it back when it is on its way. Doing so twice does nothing.
func (s *Shipment) Cancel() {
	switch s.s.Status {
	case Prepared:
		s.s.Status = Cancelled
	case Dispatched:
		s.s.Status = Returned
	case Cancelled, Returned:
		return
	}
	s.Record(ShipmentCancelled{OrderID: s.s.OrderID})
}
