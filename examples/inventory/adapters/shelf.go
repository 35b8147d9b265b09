package adapters

import (
	"context"
	"fmt"
	"strings"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/surge-go/surge/examples/inventory/domain"
	"github.com/surge-go/surge/outbox/uow"
)

type productRow struct {
	SKU    domain.SKU `gorm:"primaryKey;size:64"`
	Seeded int
	Free   int
}

// TableName implements GORM's Tabler.
func (productRow) TableName() string { return "products" }

// Migrate makes the service's tables.
func Migrate(ctx context.Context, db *gorm.DB) error {
	if err := db.WithContext(ctx).AutoMigrate(&productRow{}, &reservationRow{}); err != nil {
		return fmt.Errorf("inventory: migrate: %w", err)
	}
	return nil
}

// Seed adds products that are not there yet; those that are keep their stock.
func Seed(ctx context.Context, db *gorm.DB, units map[string]int) error {
	rows := make([]productRow, 0, len(units))
	for sku, n := range units {
		rows = append(rows, productRow{SKU: domain.SKU(sku), Seeded: n, Free: n})
	}
	if len(rows) == 0 {
		return nil
	}
	err := db.WithContext(ctx).Clauses(clause.OnConflict{DoNothing: true}).CreateInBatches(rows, 200).Error
	if err != nil {
		return fmt.Errorf("inventory: seed: %w", err)
	}
	return nil
}

// Shelf keeps the free units in the transaction in ctx. They change by deltas with a guard, in the statement
// itself, so that no number is ever written that was read before.
type Shelf struct{}

// Free implements domain.Shelf.
func (Shelf) Free(ctx context.Context, lines []domain.Line) (map[domain.SKU]int, error) {
	return free(uow.DB(ctx), lines)
}

func free(db *gorm.DB, lines []domain.Line) (map[domain.SKU]int, error) {
	skus := make([]any, len(lines))
	for i, l := range lines {
		skus[i] = l.SKU
	}
	in := strings.TrimSuffix(strings.Repeat("?,", len(skus)), ",")
	rows, err := db.Raw(`SELECT sku, free FROM products WHERE sku IN (`+in+`)`, skus...).Rows()
	if err != nil {
		return nil, fmt.Errorf("inventory: read the shelf: %w", err)
	}
	defer func() { _ = rows.Close() }()
	out := make(map[domain.SKU]int, len(lines))
	for rows.Next() {
		var sku domain.SKU
		var n int
		if err := rows.Scan(&sku, &n); err != nil {
			return nil, fmt.Errorf("inventory: read the shelf: %w", err)
		}
		out[sku] = n
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("inventory: read the shelf: %w", err)
	}
	return out, nil
}

// Take implements domain.Shelf.
func (Shelf) Take(ctx context.Context, lines []domain.Line) error {
	for _, l := range lines {
		res := uow.DB(ctx).Exec(`UPDATE products SET free = free - ? WHERE sku = ? AND free >= ?`,
			l.Quantity, l.SKU, l.Quantity)
		if res.Error != nil {
			return fmt.Errorf("inventory: take %s: %w", l.SKU, res.Error)
		}
		if res.RowsAffected == 0 {
			return fmt.Errorf("%w: %s", domain.ErrTaken, l.SKU)
		}
	}
	return nil
}

// Return implements domain.Shelf.
func (Shelf) Return(ctx context.Context, lines []domain.Line) error {
	for _, l := range lines {
		err := uow.DB(ctx).Exec(`UPDATE products SET free = free + ? WHERE sku = ?`, l.Quantity, l.SKU).Error
		if err != nil {
			return fmt.Errorf("inventory: return %s: %w", l.SKU, err)
		}
	}
	return nil
}

// NaiveShelf is the shelf as it is written all too often: it reads what is free, outside of the transaction, decides,
// and writes back what should be left. It is here to show what that does when many people buy at once.
type NaiveShelf struct{ DB *gorm.DB }

// Free implements domain.Shelf.
func (s NaiveShelf) Free(ctx context.Context, lines []domain.Line) (map[domain.SKU]int, error) {
	return free(s.DB.WithContext(ctx), lines)
}

// Take implements domain.Shelf.
func (s NaiveShelf) Take(ctx context.Context, lines []domain.Line) error {
	return s.set(ctx, lines, -1)
}

// Return implements domain.Shelf.
func (s NaiveShelf) Return(ctx context.Context, lines []domain.Line) error {
	return s.set(ctx, lines, +1)
}

func (s NaiveShelf) set(ctx context.Context, lines []domain.Line, sign int) error {
	was, err := s.Free(ctx, lines)
	if err != nil {
		return err
	}
	for _, l := range lines {
		left := was[l.SKU] + sign*l.Quantity
		if err := uow.DB(ctx).Exec(`UPDATE products SET free = ? WHERE sku = ?`, left, l.SKU).Error; err != nil {
			return fmt.Errorf("inventory: set %s: %w", l.SKU, err)
		}
	}
	return nil
}
