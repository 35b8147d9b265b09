package gormstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/effect"
	"github.com/surge-go/surge/cqrs/effect/effecttest"
	"github.com/surge-go/surge/cqrs/gormstore"
)

func intent(id, owner string) *effect.Record {
	return &effect.Record{
		ID: id, Name: "capture", Key: "pay-" + id, Owner: owner, Doubt: owner != "", Keep: time.Hour,
		Envelope: cqrs.Envelope{ID: "cmd-" + id, Type: "payment.capture", ReplyTo: "saga.replies", Token: "t"},
		Command:  []byte(`{"c":1}`), Intent: []byte(`{"i":2}`),
	}
}

func effects(t *testing.T, f *fixture) *gormstore.Effects {
	t.Helper()
	e, err := gormstore.NewEffects(f.work)
	must(t, err)
	return e
}

func add(t *testing.T, f *fixture, e *gormstore.Effects, records ...*effect.Record) {
	t.Helper()
	f.do(t, func(ctx context.Context) error {
		for _, r := range records {
			if err := e.Add(ctx, r, func() {}); err != nil {
				return err
			}
		}
		return nil
	})
}

func claim(t *testing.T, e *gormstore.Effects, owner string, limit int) []*effect.Record {
	t.Helper()
	records, err := e.Claim(t.Context(), owner, []string{"capture", "void"}, limit)
	must(t, err)
	return records
}

func beat(t *testing.T, e *gormstore.Effects, owner string, lease time.Duration) {
	t.Helper()
	_, err := e.Beat(t.Context(), owner, lease)
	must(t, err)
}

func names(records []*effect.Record) string {
	var ids []string
	for _, r := range records {
		ids = append(ids, r.ID)
	}
	return strings.Join(ids, " ")
}

func TestRule28_EffectsConform(t *testing.T) {
	t.Parallel()
	for name, open := range openers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			effecttest.Run(t, func(t *testing.T) effecttest.Fixture {
				f := newFixture(t, open(t))
				return effecttest.Fixture{Store: effects(t, f), Do: f.work.Do}
			})
		})
	}
}

// Results that come together share a commit, and one that cannot be applied does not stop the others.
func TestRule28_ManyResultsSettleInFewCommits(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		e := effects(t, f)
		const n = 120
		records := make([]*effect.Record, n)
		for i := range records {
			records[i] = intent(fmt.Sprintf("%03d", i), "me")
		}
		add(t, f, e, records...)
		before := f.work.Stats().Commits
		boom := errors.New("boom")
		var wg sync.WaitGroup
		for i, rec := range records {
			wg.Go(func() {
				err := e.Settle(t.Context(), rec, func(context.Context) error {
					if i%40 == 7 {
						return boom
					}
					return nil
				})
				if (i%40 == 7) != errors.Is(err, boom) {
					t.Errorf("%s: %v", rec.ID, err)
				}
			})
		}
		wg.Wait()
		var left int64
		must(t, f.db.Raw("SELECT count(*) FROM cqrs_effects").Scan(&left).Error)
		if commits := f.work.Stats().Commits - before; left != 3 || commits > n/3 {
			t.Fatalf("%d left, %d commits for %d results", left, commits, n)
		}
	})
}

func TestRule28_OperatorsSeeAndFreeWhatIsParked(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		e := effects(t, f)
		for _, id := range []string{"1", "2", "3"} {
			rec := intent(id, "me")
			add(t, f, e, rec)
			must(t, e.Postpone(t.Context(), rec, effect.Postponement{Attempts: 4, Park: true, Error: "forgotten"}))
		}
		add(t, f, e, intent("4", "me"))
		list, err := e.Parked(t.Context(), gormstore.EffectFilter{Name: "capture", After: "1"})
		if err != nil || len(list) != 2 || list[0].ID != "2" || list[0].Key != "pay-2" || list[0].Error != "forgotten" {
			t.Fatalf("parked %+v, %v", list, err)
		}
		if _, err := e.Retry(t.Context(), []string{"2"}, time.Hour); !errors.Is(err, gormstore.ErrNoActor) {
			t.Fatalf("retried by nobody: %v", err)
		}
		ctx := gormstore.By(t.Context(), "ada", "the provider answers again")
		if n, err := e.Retry(ctx, []string{"2", "4"}, time.Hour); err != nil || n != 1 {
			t.Fatalf("retried %d, %v", n, err)
		}
		if n, err := e.Discard(ctx, []string{"3", "4"}); err != nil || n != 1 {
			t.Fatalf("discarded %d, %v", n, err)
		}
		got := claim(t, e, "you", 10)
		if !strings.Contains(names(got), "2") || got[0].Keep < 59*time.Minute {
			t.Fatalf("claimed %+v", got)
		}
		want := "effect capture 2 retry ada the provider answers again;" +
			"effect capture 3 discard ada the provider answers again;"
		if got := audit(t, f); got != want {
			t.Fatalf("log %q", got)
		}
		stats, err := e.Stats(t.Context())
		if err != nil || stats.Open != 2 || stats.Parked != 1 || stats.Oldest < 0 {
			t.Fatalf("stats %+v, %v", stats, err)
		}
	})
}

// An operator who vouches for no time at all would have the effect parked again at once.
func TestRetryNeedsATime(t *testing.T) {
	t.Parallel()
	f := onSQLite(t)
	e, err := gormstore.NewEffects(f.work)
	must(t, err)
	for _, keep := range []time.Duration{0, -time.Hour} {
		n, err := e.Retry(gormstore.By(t.Context(), "ann", "the provider is back"), []string{"1"}, keep)
		if err == nil || !strings.Contains(err.Error(), "keep") || n != 0 {
			t.Errorf("Retry for %v = %d, %v", keep, n, err)
		}
	}
}
