package gormstore_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/glebarez/sqlite"
	"github.com/surge-go/surge/cqrs/aggregate"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

type benchOrder struct {
	aggregate.Root
	ID, Customer, SKU, Status string
	Units, Cents              int
}

// BenchmarkRepository inserts, loads and updates 64 aggregates in a transaction; one op is one aggregate.
// gorm does the same with Create, First and a guarded Updates.
func BenchmarkRepository(b *testing.B) {
	repo := gormstore.NewRepository[benchOrder, string](nil)
	b.Run("repository", func(b *testing.B) {
		benchRepository(b, func(ctx context.Context, id string) error {
			if err := repo.Save(ctx, &benchOrder{ID: id, Customer: "ada", SKU: "hat", Units: 1, Cents: 995}); err != nil {
				return err
			}
			o, err := repo.Get(ctx, id)
			if err != nil {
				return err
			}
			o.Status = "confirmed"
			return repo.Save(ctx, o)
		})
	})
	b.Run("gorm", func(b *testing.B) {
		benchRepository(b, func(ctx context.Context, id string) error {
			fresh := &benchOrder{ID: id, Customer: "ada", SKU: "hat", Units: 1, Cents: 995}
			if err := uow.DB(ctx).Create(fresh).Error; err != nil {
				return err
			}
			var o benchOrder
			if err := uow.DB(ctx).First(&o, "id = ?", id).Error; err != nil {
				return err
			}
			o.Status, o.Version = "confirmed", o.Version+1
			return uow.DB(ctx).Select("*").Where("version = ?", o.Version-1).Updates(&o).Error
		})
	})
}

func benchRepository(b *testing.B, one func(ctx context.Context, id string) error) {
	db, err := gorm.Open(sqlite.Open(":memory:"), &gorm.Config{Logger: logger.Discard})
	if err != nil {
		b.Fatal(err)
	}
	work, err := uow.New(db, uow.Config{})
	if err != nil {
		b.Fatal(err)
	}
	if err := db.AutoMigrate(&benchOrder{}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for n := 0; n < b.N; n += 64 {
		err := work.Do(b.Context(), func(ctx context.Context) error {
			for i := range min(64, b.N-n) {
				if err := one(ctx, fmt.Sprint(n+i)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	pool, err := db.DB()
	if err != nil {
		b.Fatal(err)
	}
	_ = pool.Close()
}
