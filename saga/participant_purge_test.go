package saga_test

import (
	"context"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
)

// startedAt is the ID of a saga that was started so long ago.
func startedAt(ago time.Duration) string {
	id := uuid.Must(uuid.NewV7())
	ms := uint64(time.Now().Add(-ago).UnixMilli())
	binary.BigEndian.PutUint64(id[:8], ms<<16|uint64(binary.BigEndian.Uint16(id[6:8])))
	return id.String()
}

// An undo whose do was forgotten is not answered as if there were nothing to undo. One of a saga that was started
// later, or before anything was forgotten, came ahead of its do, and is.
func TestUndoOfAPurgedDoIsRefused(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		d := newDesk(t, dialect)
		want := func(id, want string) {
			t.Helper()
			got := d.send(id+":1:u:a", time.Time{}, unwork{id, "a"}, true)
			if got != want && !strings.HasPrefix(got, want+` {"code":"forgotten"`) {
				t.Errorf("the undo of %s was answered %q, want %s", id, got, want)
			}
		}
		purge := func(want int) {
			t.Helper()
			must(t, d.world.Work.Do(t.Context(), func(ctx context.Context) error {
				if err := uow.DB(ctx).Exec("UPDATE saga_participants SET created_at = created_at - 60000").Error; err != nil {
					return err
				}
				n, err := saga.ParticipantPurger{Keep: time.Minute - time.Second}.Purge(ctx, 10)
				if n != want {
					t.Errorf("purged %d, want %d", n, want)
				}
				return err
			}))
		}
		old := startedAt(2 * time.Minute)
		want(startedAt(2*time.Minute), "ok")
		if got := d.send(old+":1:d:a", time.Time{}, work{ID: old, Step: "a"}, true); got != `ok {"Step":"a"}` {
			t.Fatal(got)
		}
		purge(2)
		want(old, "rejected")
		want("of-an-unknown-age", "rejected")
		want(startedAt(0), "ok")
		purge(1)
		want(old, "rejected")
		want(startedAt(0), "ok")
		d.wantDid(old, "a")
	})
}
