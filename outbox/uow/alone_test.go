package uow_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/go-sql-driver/mysql"
	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
)

// lostTo returns an error with which a database says that the transaction is gone, and nobody is to blame.
func lostTo(dialect string) error {
	return map[string]error{
		"postgres": state("40001"), "mysql": &mysql.MySQLError{Number: 1213}, "sqlite": code(5),
	}[dialect]
}

// A part whose transaction is lost whenever it runs fails alone, and is not tried without end. Its neighbors commit.
func TestRule01_APartThatAlwaysLosesItsTransactionFailsAlone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ parts, retries int }{{64, 5}, {64, 1}, {8, 2}, {5, 1}} {
		t.Run(fmt.Sprintf("%d parts, %d retries", c.parts, c.retries), func(t *testing.T) {
			t.Parallel()
			onEach(t, func(t *testing.T, db *gorm.DB) {
				u := unit(t, db, one(uow.Config{Retries: c.retries}))
				culprit, lost := c.parts*5/8, lostTo(db.Name())
				var runs atomic.Int64
				var fns []func(context.Context) error
				for i := range c.parts {
					fns = append(fns, func(ctx context.Context) error {
						err := insert(ctx, i)
						if i == culprit {
							runs.Add(1)
							return errors.Join(err, lost)
						}
						return err
					})
				}
				for i, err := range together(t, u, fns...) {
					if errors.Is(err, lost) != (i == culprit) || (err != nil) != (i == culprit) {
						t.Errorf("part %d: %v", i, err)
					}
				}
				if got := count(t, db, "id <> ?", culprit); got != c.parts-1 || count(t, db, "1 = 1") != got {
					t.Errorf("%d neighbors committed, want %d; %d rows", got, c.parts-1, count(t, db, "1 = 1"))
				}
				if got := runs.Load(); got > 8 {
					t.Errorf("the part that fails ran %d times", got)
				}
			})
		})
	}
}

// Without retries a transaction that is lost is not run again, not even in parts.
func TestNoRetries(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	u := unit(t, db, one(uow.Config{Retries: -1}))
	lost, runs := lostTo(db.Name()), 0
	errs := together(t, u,
		func(ctx context.Context) error { runs++; return insert(ctx, 1) },
		func(context.Context) error { runs++; return lost },
	)
	if !errors.Is(errs[0], lost) || !errors.Is(errs[1], lost) || runs != 2 || count(t, db, "1 = 1") != 0 {
		t.Errorf("%v after %d runs, %d rows", errs, runs, count(t, db, "1 = 1"))
	}
}
