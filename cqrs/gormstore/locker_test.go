package gormstore_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/outbox/uow"
)

// Transactions that change the same rows in different order do not deadlock once they have locked, on two replicas.
func TestRule03_LocksAreTakenInOneOrderAcrossReplicas(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		if f.db.Name() == "mysql" {
			err := f.work.Do(t.Context(), func(ctx context.Context) error {
				return gormstore.Locker{}.Lock(ctx, []string{"a"})
			})
			if !errors.Is(err, gormstore.ErrNoLocks) {
				t.Error(err)
			}
			return
		}
		f.do(t, func(ctx context.Context) error {
			if err := uow.DB(ctx).Exec("CREATE TABLE shelves (sku VARCHAR(9) PRIMARY KEY, n INT)").Error; err != nil {
				return err
			}
			return uow.DB(ctx).Exec("INSERT INTO shelves VALUES ('a',0),('b',0),('c',0)").Error
		})
		other, err := uow.New(f.db, uow.Config{})
		if err != nil {
			t.Fatal(err)
		}
		skus := []string{"a", "b", "c"}
		var wg sync.WaitGroup
		for i := range 40 {
			work := []*uow.UnitOfWork{f.work, other}[i%2]
			order := slices.Clone(skus)
			if i%3 == 0 {
				slices.Reverse(order)
			}
			wg.Go(func() {
				err := work.Do(context.Background(), func(ctx context.Context) error {
					if err := (gormstore.Locker{}).Lock(ctx, skus); err != nil {
						return err
					}
					for _, sku := range order {
						if err := uow.DB(ctx).Exec("UPDATE shelves SET n = n + 1 WHERE sku = ?", sku).Error; err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		var wrong int64
		if err := f.db.Raw("SELECT count(*) FROM shelves WHERE n <> 40").Scan(&wrong).Error; err != nil || wrong != 0 {
			t.Errorf("%d shelves are wrong, %v", wrong, err)
		}
		if n := f.work.Stats().Retries + other.Stats().Retries; n != 0 && f.db.Name() == "postgres" {
			t.Errorf("%d transactions met a deadlock", n)
		}
	})
}
