package adapters

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"gorm.io/gorm"

	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/examples/order/domain"
)

// orderRow is an order at rest. Times are in microseconds since 1970; 0 means never.
type orderRow struct {
	ID              domain.OrderID `gorm:"primaryKey;size:40"`
	Customer        string         `gorm:"size:100;index:orders_by_customer,priority:1"`
	PlacedAt        int64          `gorm:"index:orders_by_customer,priority:2"`
	ClosedAt        int64
	Status          string `gorm:"size:20;index:orders_pending,where:status = 'pending'"`
	Reason          string `gorm:"size:200"`
	Card            string `gorm:"size:100"`
	Total           int64
	CancelRequested bool
	Lines           string
	Version         int64
}

// TableName implements GORM's Tabler.
func (orderRow) TableName() string { return "orders" }

// Migrate makes the service's tables.
func Migrate(ctx context.Context, db *gorm.DB) error {
	if err := db.WithContext(ctx).AutoMigrate(&orderRow{}, &priceRow{}); err != nil {
		return fmt.Errorf("order: migrate: %w", err)
	}
	return nil
}

// NewOrders keeps orders in the transaction in ctx, and tells what they recorded to publisher, in the words of
// the contract.
func NewOrders(publisher gormstore.Publisher) domain.Orders {
	return gormstore.NewMapped[domain.Order, orderRow, domain.OrderID](translator{publisher}, toRow, fromRow)
}

func toRow(o *domain.Order) orderRow {
	s := o.Snapshot()
	lines, _ := json.Marshal(s.Lines) // of strings and numbers: cannot fail
	return orderRow{
		ID: s.ID, Customer: string(s.Customer), Card: s.Card, Status: string(s.Status), Reason: s.Reason,
		Total: int64(s.Total), CancelRequested: s.CancelRequested, Lines: string(lines),
		PlacedAt: micros(s.PlacedAt), ClosedAt: micros(s.ClosedAt),
	}
}

func fromRow(r orderRow) (*domain.Order, error) {
	var lines []domain.Line
	if err := json.Unmarshal([]byte(r.Lines), &lines); err != nil {
		return nil, fmt.Errorf("lines of order %s: %w", r.ID, err)
	}
	return domain.Restore(domain.Snapshot{
		ID: r.ID, Customer: domain.CustomerID(r.Customer), Card: r.Card, Lines: lines, Total: domain.Money(r.Total),
		Status: domain.Status(r.Status), Reason: r.Reason, CancelRequested: r.CancelRequested,
		PlacedAt: moment(r.PlacedAt), ClosedAt: moment(r.ClosedAt),
	}, r.Version), nil
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func moment(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// translator tells domain events in the words of the contract.
type translator struct{ to gormstore.Publisher }

// Publish implements gormstore.Publisher.
func (t translator) Publish(ctx context.Context, events ...any) error {
	out := make([]any, 0, len(events))
	for _, e := range events {
		switch e := e.(type) {
		case domain.OrderPlaced:
			out = append(out, placed(e))
		case domain.OrderConfirmed:
			out = append(out, contracts.OrderConfirmed{OrderID: string(e.ID)})
		case domain.OrderRejected:
			out = append(out, contracts.OrderRejected{OrderID: string(e.ID), Reason: e.Reason})
		case domain.CancelRequested:
			out = append(out, contracts.CancelRequested{OrderID: string(e.ID)})
		case domain.OrderCancelled:
			out = append(out, contracts.OrderCancelled{OrderID: string(e.ID)})
		default:
			return fmt.Errorf("order: no contract tells %T", e)
		}
	}
	return t.to.Publish(ctx, out...)
}

func placed(e domain.OrderPlaced) contracts.OrderPlaced {
	lines := make([]contracts.Line, len(e.Lines))
	for i, l := range e.Lines {
		lines[i] = contracts.Line{SKU: string(l.SKU), Quantity: int(l.Quantity)}
	}
	return contracts.OrderPlaced{
		OrderID: string(e.ID), Customer: string(e.Customer), Card: e.Card, Lines: lines, Total: int64(e.Total),
		PlacedAt: e.At,
	}
}
