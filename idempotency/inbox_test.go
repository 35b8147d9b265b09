package idempotency_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox/uow"
)

func claim(b *bench, group string, ids ...string) (fresh []bool, err error) {
	inbox := idempotency.NewInbox(idempotency.InboxConfig{})
	err = b.work.Do(context.Background(), func(ctx context.Context) error {
		fresh, err = inbox.Claim(ctx, group, ids)
		return err
	})
	return fresh, err
}

// A batch may hold an id twice, unsorted, with ids that were handled before and ids that other groups have handled.
func TestRule02_InboxClaimsABatch(t *testing.T) {
	t.Parallel()
	onEach(t, 0, func(t *testing.T, b *bench) {
		fresh, err := claim(b, "orders", "m5", "m1", "m5", "M1", "m3")
		must(t, err)
		if want := []bool{true, true, false, true, true}; !reflect.DeepEqual(fresh, want) {
			t.Errorf("first batch: %v, want %v", fresh, want)
		}
		fresh, err = claim(b, "orders", "m3", "m2", "m1", "m2")
		must(t, err)
		if want := []bool{false, true, false, false}; !reflect.DeepEqual(fresh, want) {
			t.Errorf("second batch: %v, want %v", fresh, want)
		}
		fresh, err = claim(b, "billing", "m1")
		must(t, err)
		if !fresh[0] {
			t.Error("a group forgets nothing that it never handled")
		}
	})
}

// Two consumers of one group get overlapping batches in different order, as in a rebalance: no deadlock ends in an
// error, and each message is new to exactly one of them.
func TestRule02_InboxClaimsRace(t *testing.T) {
	t.Parallel()
	onEach(t, 0, func(t *testing.T, a *bench) {
		members := []*bench{a, replica(t, a, 0), replica(t, a, 0)}
		const rounds, size = 20, 30
		got := make(chan string, rounds*size*len(members))
		var wg sync.WaitGroup
		for m, b := range members {
			wg.Go(func() {
				for round := range rounds {
					ids := make([]string, size)
					for i := range ids {
						ids[i] = fmt.Sprintf("m-%d-%d", round, (i*(m*2+1)+m)%size)
					}
					fresh, err := claim(b, "orders", ids...)
					if err != nil {
						t.Error(err)
						return
					}
					for i, f := range fresh {
						if f {
							got <- ids[i]
						}
					}
				}
			})
		}
		wg.Wait()
		close(got)
		seen := map[string]int{}
		for id := range got {
			seen[id]++
		}
		for id, n := range seen {
			if n != 1 {
				t.Errorf("%s was new to %d members", id, n)
			}
		}
		if len(seen) != rounds*size {
			t.Errorf("%d messages were new, want %d", len(seen), rounds*size)
		}
	})
}

func TestInboxRefusesWhatItCannotKeep(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	for _, ids := range [][]string{{""}, {"ok", strings.Repeat("x", 256)}} {
		_, err := claim(b, "orders", ids...)
		wantErr(t, err, idempotency.ErrKey)
	}
	_, err := claim(b, "", "m1")
	wantErr(t, err, idempotency.ErrKey)
	_, err = idempotency.NewInbox(idempotency.InboxConfig{}).Claim(t.Context(), "orders", []string{"m1"})
	wantErr(t, err, uow.ErrNoTransaction)
}

func TestRule10_InboxOutlivesTheTopic(t *testing.T) {
	t.Parallel()
	inbox := idempotency.NewInbox(idempotency.InboxConfig{Retention: 8 * 24 * time.Hour})
	for topic, fits := range map[time.Duration]bool{
		7 * 24 * time.Hour: true, 8 * 24 * time.Hour: false, 30 * 24 * time.Hour: false, -1: false,
	} {
		if err := inbox.CheckRetention(topic); errors.Is(err, idempotency.ErrRetention) == fits {
			t.Errorf("topic %v: %v", topic, err)
		}
	}
	if d := idempotency.NewInbox(idempotency.InboxConfig{}).Retention(); d != idempotency.DefaultInboxRetention {
		t.Errorf("default retention is %v", d)
	}
}

func TestRule10_InboxKnowsThatAGroupHasAPast(t *testing.T) {
	t.Parallel()
	onEach(t, 0, func(t *testing.T, b *bench) {
		inbox := idempotency.NewInbox(idempotency.InboxConfig{})
		_, err := claim(b, "orders", "m1")
		must(t, err)
		must(t, b.work.Do(t.Context(), func(ctx context.Context) error {
			for group, want := range map[string]bool{"orders": false, "billing": true} {
				if empty, err := inbox.Empty(ctx, group); err != nil || empty != want {
					t.Errorf("%s: empty is %v, error %v", group, empty, err)
				}
			}
			return nil
		}))
	})
}

// What one database would not take is refused on each, and named.
func TestInboxRefusesWhatIsNotText(t *testing.T) {
	t.Parallel()
	onEach(t, 0, func(t *testing.T, b *bench) {
		for field, claimed := range map[string][2]string{
			"group": {"g\x00", "m"}, "message id": {"g", "\xff"},
		} {
			_, err := claim(b, claimed[0], claimed[1])
			wantErr(t, err, idempotency.ErrKey)
			if !strings.Contains(err.Error(), field) {
				t.Errorf("%v does not name the %s", err, field)
			}
		}
	})
}
