package uow_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
)

type settled int

func (settled) SettlesBeforeCommit() {}

// A collector that takes back by itself what it wrote for a part that failed: that part costs no rerun.
func TestSettlerSparesTheNeighborsARerun(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, one(uow.Config{}))
		keep := func(_ context.Context, _ []settled) error { return nil }
		claim := func(ctx context.Context, ids []settled) error {
			for _, id := range ids {
				if err := insert(ctx, int(id)); err != nil {
					return err
				}
			}
			return nil
		}
		release := holdWriter(t, u)
		var wg sync.WaitGroup
		for i := range 4 {
			waiting := uow.Waiting(u)
			wg.Go(func() {
				err := u.Do(uow.Prepare(t.Context(), "keys", settled(i), claim), func(ctx context.Context) error {
					if i == 2 {
						return errNo
					}
					return uow.BeforeCommit(ctx, "kept", keep, settled(i))
				})
				if (i == 2) != errors.Is(err, errNo) {
					t.Errorf("%d: %v", i, err)
				}
			})
			for uow.Waiting(u) == waiting {
			}
		}
		release()
		wg.Wait()
		if s := u.Stats(); s.Restarts != 0 || count(t, db, "1 = 1") != 4 {
			t.Errorf("%+v, %d rows", s, count(t, db, "1 = 1"))
		}
	})
}
