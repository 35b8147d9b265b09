package adapters

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"gorm.io/gorm"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/aggregate"
	"github.com/surge-go/surge/cqrs/query"
	"github.com/surge-go/surge/examples/order/app"
	"github.com/surge-go/surge/examples/order/domain"
)

// NewReads answers the queries from db, outside of any transaction.
func NewReads(db *gorm.DB) *query.Mux {
	m := query.NewMux()
	r := reads{db}
	query.Handle(m, r.get)
	query.Handle(m, r.list)
	query.Handle(m, r.pending)
	return m
}

type reads struct{ db *gorm.DB }

func (r reads) get(ctx context.Context, q app.GetOrder) (app.OrderView, error) {
	var row orderRow
	err := r.db.WithContext(ctx).Where("id = ? AND customer = ?", q.ID, q.Customer).Take(&row).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return app.OrderView{}, aggregate.ErrNotFound
	}
	if err != nil {
		return app.OrderView{}, fmt.Errorf("order: read: %w", err)
	}
	return view(row)
}

func (r reads) list(ctx context.Context, q app.ListOrders) (app.OrderPage, error) {
	page := app.OrderPage{Orders: []app.OrderView{}}
	limit := min(max(q.Limit, 1), 100)
	db := r.db.WithContext(ctx).Where("customer = ?", q.Customer)
	if q.Cursor != "" {
		at, id, err := parseCursor(q.Cursor)
		if err != nil {
			return page, cqrs.Reject(app.Invalid, err)
		}
		db = db.Where("placed_at < ? OR placed_at = ? AND id < ?", at, at, id)
	}
	var rows []orderRow
	if err := db.Order("placed_at DESC, id DESC").Limit(limit + 1).Find(&rows).Error; err != nil {
		return page, fmt.Errorf("order: list: %w", err)
	}
	if len(rows) > limit {
		rows = rows[:limit]
		page.Next = cursor(rows[limit-1])
	}
	for _, row := range rows {
		v, err := view(row)
		if err != nil {
			return page, err
		}
		page.Orders = append(page.Orders, v)
	}
	return page, nil
}

func (r reads) pending(ctx context.Context, _ app.CountPending) (int, error) {
	var n int
	err := r.db.WithContext(ctx).Raw(`SELECT count(*) FROM orders WHERE status = 'pending'`).Scan(&n).Error
	if err != nil {
		return 0, fmt.Errorf("order: count: %w", err)
	}
	return n, nil
}

func view(row orderRow) (app.OrderView, error) {
	o, err := fromRow(row)
	if err != nil {
		return app.OrderView{}, err
	}
	s := o.Snapshot()
	v := app.OrderView{
		ID: string(s.ID), Status: string(s.Status), Reason: s.Reason, CancelRequested: s.CancelRequested,
		Total: int64(s.Total), PlacedAt: s.PlacedAt, Lines: make([]app.LineView, len(s.Lines)),
	}
	if !s.ClosedAt.IsZero() {
		v.ClosedAt = &s.ClosedAt
	}
	for i, l := range s.Lines {
		v.Lines[i] = app.LineView{SKU: string(l.SKU), Quantity: int(l.Quantity), UnitPrice: int64(l.UnitPrice)}
	}
	return v, nil
}

// cursor points behind a row.
func cursor(row orderRow) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s", row.PlacedAt, row.ID))
}

func parseCursor(s string) (int64, domain.OrderID, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return 0, "", fmt.Errorf("order: cursor: %w", err)
	}
	at, id, _ := strings.Cut(string(b), " ")
	us, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return 0, "", fmt.Errorf("order: cursor: %w", err)
	}
	return us, domain.OrderID(id), nil
}
