package idempotency_test

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox/uow"
)

func TestInboxTellsWhatItHasSeen(t *testing.T) {
	t.Parallel()
	onEach(t, 0, func(t *testing.T, b *bench) {
		_, err := claim(b, "orders", "m1", "m2")
		must(t, err)
		inbox := idempotency.NewInbox(idempotency.InboxConfig{})
		for range 2 { // asking claims nothing
			var seen []bool
			must(t, b.work.Do(context.Background(), func(ctx context.Context) (err error) {
				seen, err = inbox.Seen(ctx, "orders", []string{"m3", "m2", "m3", "m1"})
				return err
			}))
			if want := []bool{false, true, false, true}; !reflect.DeepEqual(seen, want) {
				t.Fatalf("%v, want %v", seen, want)
			}
		}
		must(t, b.work.Do(context.Background(), func(ctx context.Context) error {
			seen, err := inbox.Seen(ctx, "billing", []string{"m1"})
			if err == nil && seen[0] {
				err = errors.New("another group has seen it")
			}
			return err
		}))
	})
	inbox := idempotency.NewInbox(idempotency.InboxConfig{})
	if _, err := inbox.Seen(context.Background(), "orders", []string{"m1"}); !errors.Is(err, uow.ErrNoTransaction) {
		t.Error(err)
	}
}
