package idempotency_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox/uow"
)

// age lets everything's retention be over.
func (b *bench) age(t testing.TB) {
	t.Helper()
	for _, table := range []string{"idempotency_keys", "idempotency_inbox"} {
		must(t, b.db.Exec("UPDATE "+table+" SET expires_at = 1").Error)
	}
}

func TestSweepDeletesWhatIsPastItsRetention(t *testing.T) {
	t.Parallel()
	onEach(t, 0, func(t *testing.T, b *bench) {
		inbox := idempotency.NewInbox(idempotency.InboxConfig{})
		s, err := idempotency.NewSweeper(b.work, idempotency.SweeperConfig{Batch: 2}, b.store, inbox)
		must(t, err)
		fill := func(prefix string) {
			_, err := claim(b, "orders", prefix+"1", prefix+"2", prefix+"3", prefix+"4", prefix+"5")
			must(t, err)
			for _, id := range []string{"1", "2", "3"} {
				k := idempotency.Key{Scope: "s", Operation: "o", ID: prefix + id}
				_, _, err := idempotency.DoTx(t.Context(), b.store, k, 1, func(context.Context) (int, error) { return 1, nil })
				must(t, err)
			}
		}
		fill("old")
		b.age(t)
		fill("new")
		must(t, s.Sweep(t.Context()))
		if k, m := b.count(t, "idempotency_keys", "1 = 1"), b.count(t, "idempotency_inbox", "1 = 1"); k != 3 || m != 5 {
			t.Errorf("%d keys and %d messages are left", k, m)
		}
	})
}

// The longest retention that there is, and half a century between sweeps, are long and not over at once.
func TestTheLongestRetention(t *testing.T) {
	t.Parallel()
	const ever = time.Duration(math.MaxInt64)
	onEach(t, 0, func(t *testing.T, b *bench) {
		store, err := idempotency.NewGormStore(b.work, idempotency.StoreConfig{Retention: ever})
		must(t, err)
		inbox := idempotency.NewInbox(idempotency.InboxConfig{Retention: ever})
		s, err := idempotency.NewSweeper(b.work, idempotency.SweeperConfig{}, store, inbox)
		must(t, err)
		k := idempotency.Key{Scope: "s", Operation: "o", ID: "1"}
		_, _, err = idempotency.DoTx(t.Context(), store, k, 1, func(context.Context) (int, error) { return 1, nil })
		must(t, err)
		must(t, b.work.Do(t.Context(), func(ctx context.Context) error {
			_, err := inbox.Claim(ctx, "g", []string{"m"})
			return err
		}))
		must(t, s.Sweep(t.Context()))
		if k, m := b.count(t, "idempotency_keys", "1 = 1"), b.count(t, "idempotency_inbox", "1 = 1"); k != 1 || m != 1 {
			t.Errorf("%d keys and %d messages are left, want one each", k, m)
		}
	})
	t.Run("interval", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, "sqlite", 0)
		synctest.Test(t, func(t *testing.T) {
			p := &purger{}
			s, err := idempotency.NewSweeper(b.work, idempotency.SweeperConfig{Interval: ever / 6}, p)
			must(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
			defer cancel()
			must(t, s.Run(ctx))
			if len(p.calls) != 1 {
				t.Errorf("%d sweeps in a day", len(p.calls))
			}
		})
	})
}

func TestNewSweeperRefusesWhatIsNil(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	if _, err := idempotency.NewSweeper(b.work, idempotency.SweeperConfig{}, b.store, nil); err == nil {
		t.Error("a purger that is nil was accepted")
	}
}

type purger struct{ calls []time.Time }

func (p *purger) Purge(ctx context.Context, _ int) (int, error) {
	if !uow.In(ctx) {
		return 0, errors.New("outside a transaction")
	}
	p.calls = append(p.calls, time.Now())
	return 0, errBoom // the next sweep tries again
}

func TestSweeperRunsUntilItsContextEnds(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	synctest.Test(t, func(t *testing.T) {
		p := &purger{}
		s, err := idempotency.NewSweeper(b.work, idempotency.SweeperConfig{Interval: time.Minute}, p)
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		must(t, s.Run(ctx))
		if n := len(p.calls); n < 9 || n > 13 {
			t.Errorf("%d sweeps in 10 minutes: %v", n, p.calls)
		}
	})
}

func TestEraseKeepsTheKeyAndForgetsTheAnswer(t *testing.T) {
	t.Parallel()
	onEach(t, 0, func(t *testing.T, b *bench) {
		do := func(scope string) error {
			k := idempotency.Key{Scope: scope, Operation: "o", ID: "k"}
			answer := func(context.Context) (string, error) { return scope, nil }
			_, _, err := idempotency.DoTx(t.Context(), b.store, k, 1, answer)
			return err
		}
		for _, scope := range []string{"alice", "alice2", "alice/x", "bob"} {
			must(t, do(scope))
		}
		n, err := b.store.Erase(t.Context(), "alice")
		if err != nil || n != 1 {
			t.Errorf("erased %d, %v", n, err)
		}
		wantErr(t, do("alice"), idempotency.ErrNotReplayable)
		for _, scope := range []string{"alice2", "alice/x", "bob"} {
			must(t, do(scope))
		}
		if n := b.count(t, "idempotency_keys", "body IS NULL"); n != 1 {
			t.Errorf("%d answers are gone", n)
		}
	})
}

func TestConfigsAreChecked(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	for _, err := range []error{
		idempotency.StoreConfig{Retention: -1}.Validate(),
		idempotency.SweeperConfig{Interval: -1}.Validate(),
		idempotency.SweeperConfig{Batch: -1}.Validate(),
		second(idempotency.NewGormStore(nil, idempotency.StoreConfig{})),
		second(idempotency.NewGormStore(b.work, idempotency.StoreConfig{Retention: -1})),
		second(idempotency.NewSweeper(nil, idempotency.SweeperConfig{})),
		second(idempotency.NewSweeper(b.work, idempotency.SweeperConfig{Batch: -1})),
	} {
		if err == nil {
			t.Error("a fault was accepted")
		}
	}
}

func second[T any](_ T, err error) error { return err }
