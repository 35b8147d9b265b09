package gormstore_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/effect"
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

func names(records []*effect.Record) string {
	var ids []string
	for _, r := range records {
		ids = append(ids, r.ID)
	}
	return strings.Join(ids, " ")
}

func TestRule28_AnIntentComesBackAsItWasRecorded(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		e := effects(t, f)
		must(t, e.Beat(t.Context(), "me", time.Hour))
		want := intent("1", "")
		add(t, f, e, want)
		got := claim(t, e, "me", 10)
		if len(got) != 1 || got[0].Keep > time.Hour || got[0].Keep < 59*time.Minute {
			t.Fatalf("claimed %+v", got)
		}
		want.Owner, want.Keep, got[0].Keep = "me", 0, 0
		if !reflect.DeepEqual(got[0], want) {
			t.Fatalf("got  %+v\nwant %+v", got[0], want)
		}
		// Whoever claims it after a crash must take it for possibly sent.
		must(t, e.Beat(t.Context(), "me", 0))
		if again := claim(t, e, "you", 10); len(again) != 1 || !again[0].Doubt {
			t.Fatalf("claimed %+v", again)
		}
	})
}

func TestRule28_AnIntentIsRecordedWithTheCommitOnly(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		e := effects(t, f)
		boom := errors.New("boom")
		var mu sync.Mutex
		committed := map[string]bool{}
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				id := fmt.Sprintf("%02d", i)
				err := f.work.Do(t.Context(), func(ctx context.Context) error {
					note := func() { mu.Lock(); committed[id] = true; mu.Unlock() }
					if err := e.Add(ctx, intent(id, ""), note); err != nil || i%3 != 0 {
						return err
					}
					return boom
				})
				if (i%3 == 0) != errors.Is(err, boom) {
					t.Errorf("%s: %v", id, err)
				}
			})
		}
		wg.Wait()
		got := claim(t, e, "me", 100)
		if len(got) != 20 || len(committed) != 20 {
			t.Fatalf("%d stored, %d told", len(got), len(committed))
		}
		for _, r := range got {
			if !committed[r.ID] {
				t.Errorf("%s is stored but was not told", r.ID)
			}
		}
	})
}

func TestRule34_OnlyWhatNoLiveOwnerHoldsIsClaimed(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		e := effects(t, f)
		must(t, e.Beat(t.Context(), "alive", time.Hour))
		must(t, e.Beat(t.Context(), "dead", time.Microsecond))
		unknown := intent("4", "")
		unknown.Name = "another"
		add(t, f, e, intent("1", "alive"), intent("2", "dead"), intent("3", ""), unknown)
		if got := names(claim(t, e, "me", 1)); got != "2" {
			t.Fatalf("claimed %q", got)
		}
		must(t, e.Beat(t.Context(), "me", time.Hour))
		if got := names(claim(t, e, "me", 10)); got != "3" {
			t.Fatalf("claimed %q", got)
		}
		if err := e.Beat(t.Context(), "dead", time.Hour); !errors.Is(err, effect.ErrLost) {
			t.Fatalf("a dead owner beats on: %v", err)
		}
		must(t, e.Beat(t.Context(), "alive", time.Hour))
		must(t, e.Beat(t.Context(), "alive", 0))
		if got := names(claim(t, e, "me", 10)); got != "1" {
			t.Fatalf("claimed %q after it was given back", got)
		}
	})
}

// A runner that starts again under its name does not wait for the lease of the run that was killed.
func TestRule34_AnOwnerSucceedsItself(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		e := effects(t, f)
		for _, owner := range []string{"pay%#1", "payments#1", "#1"} {
			must(t, e.Beat(t.Context(), owner, time.Hour))
			add(t, f, e, intent(owner, owner))
		}
		must(t, e.Beat(t.Context(), "pay%#2", time.Hour))
		must(t, e.Beat(t.Context(), "#2", time.Hour))
		if got := claim(t, e, "pay%#2", 10); names(got) != "pay%#1" || !got[0].Doubt {
			t.Fatalf("claimed %+v", got)
		}
		if err := e.Settle(t.Context(), intent("pay%#1", "pay%#1"), nil); !errors.Is(err, effect.ErrLost) {
			t.Fatalf("the killed run settles: %v", err)
		}
	})
}

func TestRule28_SettleIsCompareAndSet(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		e := effects(t, f)
		rec := intent("1", "me")
		add(t, f, e, rec)
		stale := intent("1", "a former owner")
		applied := 0
		apply := func(context.Context) error { applied++; return nil }
		if err := e.Settle(t.Context(), stale, apply); !errors.Is(err, effect.ErrLost) || applied != 0 {
			t.Fatalf("Settle by a former owner = %v", err)
		}
		boom := errors.New("boom")
		if err := e.Settle(t.Context(), rec, func(context.Context) error { return boom }); !errors.Is(err, boom) {
			t.Fatalf("Settle = %v", err)
		}
		must(t, e.Settle(t.Context(), rec, apply))
		if err := e.Settle(t.Context(), rec, apply); !errors.Is(err, effect.ErrLost) || applied != 1 {
			t.Fatalf("a second Settle = %v, applied %d times", err, applied)
		}
		if err := e.Postpone(t.Context(), rec, effect.Postponement{}); !errors.Is(err, effect.ErrLost) {
			t.Fatalf("Postpone of what is settled = %v", err)
		}
	})
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

func TestRule28_PostponeAndPark(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		e := effects(t, f)
		rec, parked := intent("1", "me"), intent("2", "me")
		add(t, f, e, rec, parked)
		must(t, e.Postpone(t.Context(), rec, effect.Postponement{Attempts: 3, Error: "refused"}))
		must(t, e.Postpone(t.Context(), parked, effect.Postponement{Park: true, Error: strings.Repeat("ü", 5000)}))
		got := claim(t, e, "you", 10)
		if names(got) != "1" || got[0].Attempts != 3 || got[0].Doubt {
			t.Fatalf("claimed %+v", got)
		}
		must(t, e.Postpone(t.Context(), got[0], effect.Postponement{Delay: time.Hour}))
		if got := names(claim(t, e, "you", 10)); got != "" {
			t.Fatalf("claimed %q before its time", got)
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
