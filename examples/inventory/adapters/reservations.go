package adapters

import (
	"context"
	"fmt"
	"strings"

	"github.com/surge-go/surge/cqrs/aggregate"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/examples/inventory/domain"
	"github.com/surge-go/surge/outbox/uow"
)

// reservationRow is a line of a reservation: rows per product, so that what is taken can be counted per product.
type reservationRow struct {
	OrderID  domain.OrderID `gorm:"primaryKey;size:40"`
	SKU      domain.SKU     `gorm:"primaryKey;size:64"`
	Quantity int
	Status   string `gorm:"size:20"`
	Version  int64
}

// TableName implements GORM's Tabler.
func (reservationRow) TableName() string { return "reservations" }

// NewReservations keeps reservations in the transaction in ctx, and tells what they recorded in the words of
// the contract.
func NewReservations(publisher gormstore.Publisher) domain.Reservations {
	return reservations{publisher}
}

type reservations struct{ publisher gormstore.Publisher }

// Get implements domain.Reservations.
func (r reservations) Get(ctx context.Context, id domain.OrderID) (*domain.Reservation, error) {
	rows, err := uow.DB(ctx).Raw(`SELECT sku, quantity, status, version FROM reservations WHERE order_id = ?`, id).Rows()
	if err != nil {
		return nil, fmt.Errorf("inventory: load reservation %s: %w", id, err)
	}
	defer func() { _ = rows.Close() }()
	var lines []domain.Line
	var status string
	var version int64
	for rows.Next() {
		var l domain.Line
		if err := rows.Scan(&l.SKU, &l.Quantity, &status, &version); err != nil {
			return nil, fmt.Errorf("inventory: load reservation %s: %w", id, err)
		}
		lines = append(lines, l)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("inventory: load reservation %s: %w", id, err)
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("reservation %s: %w", id, aggregate.ErrNotFound)
	}
	return domain.Restore(id, lines, domain.Status(status), version), nil
}

// Save implements domain.Reservations.
func (r reservations) Save(ctx context.Context, a *domain.Reservation) error {
	write := r.update
	if a.Version == 0 {
		write = r.insert
	}
	if err := write(ctx, a); err != nil {
		return fmt.Errorf("inventory: save reservation %s: %w", a.OrderID(), err)
	}
	if err := r.publisher.Publish(ctx, translate(a.Recorded())...); err != nil {
		return err
	}
	a.Saved(a.Version + 1)
	return nil
}

func (r reservations) insert(ctx context.Context, a *domain.Reservation) error {
	args := make([]any, 0, 5*len(a.Lines()))
	for _, l := range a.Lines() {
		args = append(args, a.OrderID(), l.SKU, l.Quantity, string(a.Status()), 1)
	}
	values := strings.TrimSuffix(strings.Repeat("(?,?,?,?,?),", len(a.Lines())), ",")
	res := uow.DB(ctx).Exec(`INSERT INTO reservations (order_id, sku, quantity, status, version) VALUES `+values+
		` ON CONFLICT DO NOTHING`, args...)
	return written(res.Error, res.RowsAffected, len(a.Lines()), aggregate.ErrExists)
}

func (r reservations) update(ctx context.Context, a *domain.Reservation) error {
	res := uow.DB(ctx).Exec(`UPDATE reservations SET status = ?, version = ? WHERE order_id = ? AND version = ?`,
		string(a.Status()), a.Version+1, a.OrderID(), a.Version)
	return written(res.Error, res.RowsAffected, len(a.Lines()), aggregate.ErrConflict)
}

func written(err error, rows int64, want int, otherwise error) error {
	if err == nil && rows != int64(want) {
		return otherwise
	}
	return err
}

// translate tells what others may act on. That units are set aside or sold is an answer to the saga alone.
func translate(events []any) []any {
	var out []any
	for _, e := range events {
		if e, ok := e.(domain.StockReleased); ok {
			out = append(out, contracts.StockReleased{OrderID: string(e.OrderID)})
		}
	}
	return out
}
