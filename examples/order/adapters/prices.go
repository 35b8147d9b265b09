package adapters

import (
	"context"
	"fmt"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/surge-go/surge/examples/order/domain"
)

type priceRow struct {
	SKU   string `gorm:"primaryKey;size:64"`
	Cents int64
}

// TableName implements GORM's Tabler.
func (priceRow) TableName() string { return "prices" }

// Prices is the price list, in memory. It is safe for concurrent use.
type Prices struct{ cents map[domain.SKU]domain.Money }

// LoadPrices adds prices that the table lacks, those that it has stay, and reads the list.
func LoadPrices(ctx context.Context, db *gorm.DB, add map[string]int64) (*Prices, error) {
	rows := make([]priceRow, 0, len(add))
	for sku, cents := range add {
		rows = append(rows, priceRow{SKU: sku, Cents: cents})
	}
	db = db.WithContext(ctx)
	if len(rows) > 0 {
		if err := db.Clauses(clause.OnConflict{DoNothing: true}).CreateInBatches(rows, 200).Error; err != nil {
			return nil, fmt.Errorf("order: add prices: %w", err)
		}
	}
	if err := db.Find(&rows).Error; err != nil {
		return nil, fmt.Errorf("order: read prices: %w", err)
	}
	p := &Prices{cents: make(map[domain.SKU]domain.Money, len(rows))}
	for _, r := range rows {
		p.cents[domain.SKU(r.SKU)] = domain.Money(r.Cents)
	}
	return p, nil
}

// Price implements domain.Prices.
func (p *Prices) Price(sku domain.SKU) (domain.Money, bool) {
	m, ok := p.cents[sku]
	return m, ok
}
