package uow_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
)

func TestHooks(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	u := unit(t, db, one(uow.Config{}))
	var log []string
	note := func(what string) { log = append(log, what) }
	part := func(i int) func(context.Context) error {
		return func(ctx context.Context) error {
			_ = uow.BeforeCommitLast(ctx, "last", func(context.Context, []int) error { note("last"); return nil }, i)
			_ = uow.BeforeCommit(ctx, "first", func(ctx context.Context, _ []int) error {
				note("first")
				return uow.BeforeCommit(ctx, "second", func(ctx context.Context, _ []string) error {
					note("second")
					return insert(ctx, 100)
				}, "x")
			}, i)
			return uow.AfterCommit(ctx, func() { note("after") })
		}
	}
	if err := errors.Join(together(t, u, part(1), part(2))...); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(log, " "); got != "first second last after after" {
		t.Error(got)
	}
	err := uow.BeforeCommit(t.Context(), "x", func(context.Context, []int) error { return nil }, 1)
	if !errors.Is(err, uow.ErrNoTransaction) {
		t.Error(err)
	}
}

// One statement claims for all; what it wrote for a part that fails goes with that part.
func TestPrepare(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, one(uow.Config{}))
		var claims [][]int
		claim := func(ctx context.Context, ids []int) error {
			claims = append(claims, ids)
			for _, id := range ids {
				if err := insert(ctx, id); err != nil {
					return err
				}
			}
			return nil
		}
		release := holdWriter(t, u)
		var wg sync.WaitGroup
		var errs [4]error
		for i := range errs {
			waiting := uow.Waiting(u)
			wg.Go(func() {
				ctx := uow.Prepare(t.Context(), "keys", i, claim)
				errs[i] = u.Do(ctx, func(ctx context.Context) error {
					if i == 2 {
						return errNo // wrote nothing itself, but something was written for it
					}
					return u.Do(uow.Prepare(ctx, "keys", i+10, claim), func(context.Context) error { return nil })
				})
			})
			for uow.Waiting(u) == waiting {
			}
		}
		release()
		wg.Wait()
		if len(claims[0]) != 4 {
			t.Errorf("first claim was %v, want all four", claims[0])
		}
		if errs[2] == nil || count(t, db, "id IN (2, 12)") != 0 || count(t, db, "1 = 1") != 6 {
			t.Errorf("%v, %d rows", errs, count(t, db, "1 = 1"))
		}
	})
}

// A flush that fails for one part's items fails that part only.
func TestFlushFailureFindsItsCulprit(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, one(uow.Config{}))
		var fns []func(context.Context) error
		for i := range 9 {
			fns = append(fns, func(ctx context.Context) error {
				return uow.BeforeCommit(ctx, "rows", func(ctx context.Context, ids []int) error {
					for _, id := range ids {
						if err := insert(ctx, id); err != nil {
							return err
						}
					}
					return nil
				}, min(i, 7)) // 7 comes twice
			})
		}
		failed := 0
		for _, err := range together(t, u, fns...) {
			if err != nil {
				failed++
			}
		}
		if failed != 1 || count(t, db, "1 = 1") != 8 {
			t.Errorf("%d failed, %d rows, want 1 and 8", failed, count(t, db, "1 = 1"))
		}
	})
}
