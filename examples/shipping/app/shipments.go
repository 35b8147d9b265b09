package app

import (
	"context"
	"errors"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/aggregate"
	"github.com/surge-go/surge/cqrs/query"
	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/examples/shipping/domain"
)

// Invalid is the code of the rejection of a shipment that cannot be sent.
const Invalid = "invalid"

// Shipments handles the commands about shipments. All fields are required.
type Shipments struct {
	Repository domain.Shipments
	Now        func() time.Time
}

// Create handles [contracts.CreateShipment].
func (s *Shipments) Create(ctx context.Context, c contracts.CreateShipment) (contracts.ShipmentCreated, error) {
	done := contracts.ShipmentCreated{OrderID: c.OrderID}
	sh, err := domain.Prepare(domain.OrderID(c.OrderID), c.Customer, c.Units)
	if err != nil {
		return done, cqrs.Reject(Invalid, err)
	}
	if err := s.Repository.Save(ctx, sh); err != nil && !errors.Is(err, aggregate.ErrExists) {
		return done, err
	}
	return done, nil
}

// Cancel handles [contracts.CancelShipment].
func (s *Shipments) Cancel(ctx context.Context, c contracts.CancelShipment) error {
	err := s.change(ctx, c.OrderID, func(sh *domain.Shipment) error { sh.Cancel(); return nil })
	if errors.Is(err, aggregate.ErrNotFound) {
		return nil // nothing was prepared
	}
	return err
}

// Dispatch handles [contracts.DispatchShipment].
func (s *Shipments) Dispatch(
	ctx context.Context, c contracts.DispatchShipment,
) (contracts.ShipmentDispatched, error) {
	done := contracts.ShipmentDispatched{OrderID: c.OrderID}
	return done, s.change(ctx, c.OrderID, func(sh *domain.Shipment) error { return sh.Dispatch(s.Now()) })
}

// Recall handles [contracts.RecallShipment].
func (s *Shipments) Recall(ctx context.Context, c contracts.RecallShipment) (contracts.ShipmentCancelled, error) {
	done := contracts.ShipmentCancelled{OrderID: c.OrderID}
	return done, s.change(ctx, c.OrderID, func(sh *domain.Shipment) error { sh.Cancel(); return nil })
}

func (s *Shipments) change(ctx context.Context, id string, move func(*domain.Shipment) error) error {
	sh, err := s.Repository.Get(ctx, domain.OrderID(id))
	if err != nil {
		return err
	}
	if err := move(sh); err != nil {
		return err
	}
	if len(sh.Recorded()) == 0 {
		return nil
	}
	return s.Repository.Save(ctx, sh)
}

// GetShipment asks for the shipment of an order; aggregate.ErrNotFound if there is none.
type GetShipment struct {
	query.Returns[ShipmentView]

	OrderID string
}

// ShipmentView is a shipment as its customer sees it.
type ShipmentView struct {
	OrderID      string     `json:"order_id"`
	Status       string     `json:"status"`
	Parcels      int        `json:"parcels"`
	DispatchedAt *time.Time `json:"dispatched_at,omitempty"`
}
