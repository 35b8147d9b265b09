package adapters

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"

	"github.com/surge-go/surge/cqrs/aggregate"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/cqrs/query"
	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/examples/shipping/app"
	"github.com/surge-go/surge/examples/shipping/domain"
)

// shipmentRow is a shipment at rest. The time is in microseconds since 1970; 0 means never.
type shipmentRow struct {
	OrderID      domain.OrderID `gorm:"primaryKey;size:40"`
	Customer     string         `gorm:"size:100"`
	Parcels      int
	Status       string `gorm:"size:20"`
	DispatchedAt int64
	Version      int64
}

// TableName implements GORM's Tabler.
func (shipmentRow) TableName() string { return "shipments" }

// Migrate makes the service's tables.
func Migrate(ctx context.Context, db *gorm.DB) error {
	if err := db.WithContext(ctx).AutoMigrate(&shipmentRow{}); err != nil {
		return fmt.Errorf("shipping: migrate: %w", err)
	}
	return nil
}

// NewShipments keeps shipments in the transaction in ctx, and tells what they recorded in the words of the contract.
func NewShipments(publisher gormstore.Publisher) domain.Shipments {
	return gormstore.NewMapped[domain.Shipment, shipmentRow, domain.OrderID](translator{publisher}, toRow, fromRow)
}

func toRow(sh *domain.Shipment) shipmentRow {
	s := sh.Snapshot()
	row := shipmentRow{OrderID: s.OrderID, Customer: s.Customer, Parcels: s.Parcels, Status: string(s.Status)}
	if !s.DispatchedAt.IsZero() {
		row.DispatchedAt = s.DispatchedAt.UnixMicro()
	}
	return row
}

func fromRow(r shipmentRow) (*domain.Shipment, error) {
	return domain.Restore(snapshot(r), r.Version), nil
}

func snapshot(r shipmentRow) domain.Snapshot {
	s := domain.Snapshot{
		OrderID: r.OrderID, Customer: r.Customer, Parcels: r.Parcels, Status: domain.Status(r.Status),
	}
	if r.DispatchedAt != 0 {
		s.DispatchedAt = time.UnixMicro(r.DispatchedAt).UTC()
	}
	return s
}

// translator tells domain events that others may act on, in the words of the contract.
type translator struct{ to gormstore.Publisher }

// Publish implements gormstore.Publisher.
func (t translator) Publish(ctx context.Context, events ...any) error {
	out := make([]any, 0, len(events))
	for _, e := range events {
		switch e := e.(type) {
		case domain.ShipmentCreated: // an answer to the saga alone
		case domain.ShipmentDispatched:
			out = append(out, contracts.ShipmentDispatched{OrderID: string(e.OrderID)})
		case domain.ShipmentCancelled:
			out = append(out, contracts.ShipmentCancelled{OrderID: string(e.OrderID)})
		default:
			return fmt.Errorf("shipping: no contract tells %T", e)
		}
	}
	return t.to.Publish(ctx, out...)
}

// NewReads answers the queries from db, outside of any transaction.
func NewReads(db *gorm.DB) *query.Mux {
	m := query.NewMux()
	query.Handle(m, func(ctx context.Context, q app.GetShipment) (app.ShipmentView, error) {
		var row shipmentRow
		err := db.WithContext(ctx).Where("order_id = ?", q.OrderID).Take(&row).Error
		if errors.Is(err, gorm.ErrRecordNotFound) {
			return app.ShipmentView{}, aggregate.ErrNotFound
		}
		if err != nil {
			return app.ShipmentView{}, fmt.Errorf("shipping: read: %w", err)
		}
		s := snapshot(row)
		v := app.ShipmentView{OrderID: string(s.OrderID), Status: string(s.Status), Parcels: s.Parcels}
		if !s.DispatchedAt.IsZero() {
			v.DispatchedAt = &s.DispatchedAt
		}
		return v, nil
	})
	return m
}
