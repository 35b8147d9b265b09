package uow_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
)

// Every way to a statement fails with ErrNoTransaction, and none panics.
func TestDBWithoutTransaction(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	var item Item
	var items []Item
	var n int64
	for name, use := range map[string]func(*gorm.DB) error{
		"create": func(d *gorm.DB) error { return d.Create(&Item{ID: 1}).Error },
		"save":   func(d *gorm.DB) error { return d.Save(&Item{ID: 1}).Error },
		"first":  func(d *gorm.DB) error { return d.First(&item, 1).Error },
		"find":   func(d *gorm.DB) error { return d.Where("n > ?", 1).Find(&items).Error },
		"update": func(d *gorm.DB) error { return d.Model(&Item{}).Where("id = 1").Update("n", 2).Error },
		"delete": func(d *gorm.DB) error { return d.Delete(&Item{ID: 1}).Error },
		"count":  func(d *gorm.DB) error { return d.Model(&Item{}).Count(&n).Error },
		"pluck":  func(d *gorm.DB) error { return d.Model(&Item{}).Pluck("n", &items).Error },
		"exec":   func(d *gorm.DB) error { return d.Exec("UPDATE items SET n = 1").Error },
		"scan":   func(d *gorm.DB) error { return d.Raw("SELECT 1").Scan(&n).Error },
		"rows": func(d *gorm.DB) error {
			_, err := d.Raw("SELECT 1").Rows() //nolint:rowserrcheck // there are none
			return err
		},
		"row":             func(d *gorm.DB) error { return d.Raw("SELECT 1").Row().Scan(&n) },
		"first or create": func(d *gorm.DB) error { return d.FirstOrCreate(&item).Error },
		"in batches":      func(d *gorm.DB) error { return d.CreateInBatches([]Item{{ID: 1}, {ID: 2}}, 1).Error },
		"transaction":     func(d *gorm.DB) error { return d.Transaction(func(*gorm.DB) error { return nil }) },
		"generic":         func(d *gorm.DB) error { _, err := gorm.G[Item](d).Where("id = 1").First(ctx); return err },
		"generic create":  func(d *gorm.DB) error { return gorm.G[Item](d).Create(ctx, &item) },
	} {
		err := func() (err error) {
			defer func() {
				if v := recover(); v != nil {
					err = fmt.Errorf("panicked: %v", v)
				}
			}()
			return use(uow.DB(ctx))
		}()
		if !errors.Is(err, uow.ErrNoTransaction) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if uow.In(ctx) {
		t.Error("In a transaction that is not there")
	}
}
