package uow_test

import (
	"context"
	"errors"
	"testing"

	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
)

// A part that has the transaction to itself sets savepoints only once one of its own parts, or one inside a hook, has
// failed: then it runs again, and what is around the failure stands.
func TestRule01_APartAloneUndoesANestedFailureInASecondRun(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, one(uow.Config{}))
		no := errors.New("no")
		failing := func(ctx context.Context, id int) error {
			err := u.Do(ctx, func(ctx context.Context) error { return errors.Join(insert(ctx, id), no) })
			if !errors.Is(err, no) && !errors.Is(err, uow.ErrDoomed) {
				return errors.New("the failure of the nested part is lost")
			}
			return nil // and goes on
		}
		runs := 0
		err := u.Do(t.Context(), func(ctx context.Context) error {
			runs++
			return errors.Join(failing(ctx, 1), insert(ctx, 2))
		})
		if got := count(t, db, "1 = 1"); err != nil || got != 1 || runs != 2 {
			t.Errorf("nested: %v, %d rows, %d runs", err, got, runs)
		}
		owner := new(int)
		err = u.Do(t.Context(), func(ctx context.Context) error {
			return uow.BeforeCommit(ctx, owner, func(ctx context.Context, ids []int) error {
				return errors.Join(failing(ctx, 3), insert(ctx, ids[0]))
			}, 4)
		})
		if got := count(t, db, "1 = 1"); err != nil || got != 2 {
			t.Errorf("in a hook: %v, %d rows", err, got)
		}
	})
}
