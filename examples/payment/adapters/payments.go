package adapters

import (
	"context"
	"errors"
	"fmt"

	"gorm.io/gorm"

	"github.com/surge-go/surge/cqrs/aggregate"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/cqrs/query"
	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/examples/payment/app"
	"github.com/surge-go/surge/examples/payment/domain"
)

// paymentRow is a payment at rest.
type paymentRow struct {
	ID            domain.PaymentID `gorm:"primaryKey;size:40"`
	Card          string           `gorm:"size:100"`
	Amount        int64
	Status        string `gorm:"size:20"`
	Authorization string `gorm:"size:100"`
	Capture       string `gorm:"size:100"`
	Refund        string `gorm:"size:100"`
	Reason        string `gorm:"size:200"`
	Version       int64
}

// TableName implements GORM's Tabler.
func (paymentRow) TableName() string { return "payments" }

// isOpen tells the payments that have an open intent. They are few, so their index is small.
const isOpen = `status IN ('authorizing', 'capturing', 'voiding', 'refunding')`

// Migrate makes the service's tables.
func Migrate(ctx context.Context, db *gorm.DB) error {
	db = db.WithContext(ctx)
	err := db.AutoMigrate(&paymentRow{})
	if err == nil {
		err = db.Exec(`CREATE INDEX IF NOT EXISTS payments_open ON payments (id) WHERE ` + isOpen).Error
	}
	if err != nil {
		return fmt.Errorf("payment: migrate: %w", err)
	}
	return nil
}

// NewPayments keeps payments in the transaction in ctx, and tells what they recorded in the words of the contract.
func NewPayments(publisher gormstore.Publisher) domain.Payments {
	return gormstore.NewMapped[domain.Payment, paymentRow, domain.PaymentID](translator{publisher}, toRow, fromRow)
}

func toRow(p *domain.Payment) paymentRow {
	s := p.Snapshot()
	return paymentRow{
		ID: s.ID, Card: s.Card, Amount: int64(s.Amount), Status: string(s.Status), Authorization: s.Authorization,
		Capture: s.Capture, Refund: s.Refund, Reason: s.Reason,
	}
}

func fromRow(r paymentRow) (*domain.Payment, error) {
	return domain.Restore(r.snapshot(), r.Version), nil
}

func (r paymentRow) snapshot() domain.Snapshot {
	return domain.Snapshot{
		ID: r.ID, Card: r.Card, Amount: domain.Money(r.Amount), Status: domain.Status(r.Status),
		Authorization: r.Authorization, Capture: r.Capture, Refund: r.Refund, Reason: r.Reason,
	}
}

// translator tells domain events that others may act on, in the words of the contract.
type translator struct{ to gormstore.Publisher }

// Publish implements gormstore.Publisher.
func (t translator) Publish(ctx context.Context, events ...any) error {
	out := make([]any, 0, len(events))
	for _, e := range events {
		switch e := e.(type) {
		case domain.PaymentAuthorized: // an answer to the saga alone
		case domain.PaymentDeclined:
			out = append(out, contracts.PaymentDeclined{OrderID: string(e.ID), Reason: e.Reason})
		case domain.PaymentCaptured:
			out = append(out, contracts.PaymentCaptured{OrderID: string(e.ID), Amount: int64(e.Amount)})
		case domain.PaymentVoided:
			out = append(out, contracts.PaymentVoided{OrderID: string(e.ID)})
		case domain.PaymentRefunded:
			out = append(out, contracts.PaymentRefunded{OrderID: string(e.ID), Amount: int64(e.Amount)})
		default:
			return fmt.Errorf("payment: no contract tells %T", e)
		}
	}
	return t.to.Publish(ctx, out...)
}

// NewReads answers the queries from db, outside of any transaction.
func NewReads(db *gorm.DB) *query.Mux {
	m := query.NewMux()
	query.Handle(m, func(ctx context.Context, q app.GetPayment) (app.PaymentView, error) {
		var row paymentRow
		err := db.WithContext(ctx).Where("id = ?", q.ID).Take(&row).Error
		if errors.Is(err, gorm.ErrRecordNotFound) {
			return app.PaymentView{}, aggregate.ErrNotFound
		}
		if err != nil {
			return app.PaymentView{}, fmt.Errorf("payment: read: %w", err)
		}
		return app.PaymentView{ID: string(row.ID), Status: row.Status, Amount: row.Amount, Reason: row.Reason}, nil
	})
	query.Handle(m, func(ctx context.Context, _ app.ListOpen) ([]app.OpenPayment, error) {
		var rows []paymentRow
		if err := db.WithContext(ctx).Where(isOpen).Order("id").Find(&rows).Error; err != nil {
			return nil, fmt.Errorf("payment: read what is open: %w", err)
		}
		open := make([]app.OpenPayment, len(rows))
		for i, row := range rows {
			open[i] = app.OpenPayment{Snapshot: row.snapshot(), Version: row.Version}
		}
		return open, nil
	})
	return m
}
