// Package effecttest is the conformance suite of effect.Store: whoever writes one runs it.
//
//	func TestStore(t *testing.T) {
//		effecttest.Run(t, func(t *testing.T) effecttest.Fixture {
//			work := openDatabase(t)
//			return effecttest.Fixture{Store: NewStore(work), Do: work.Do}
//		})
//	}
package effecttest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/effect"
)

// Fixture is an empty store and the transactions that its Add joins.
type Fixture struct {
	Store effect.Store
	Do    func(ctx context.Context, fn func(ctx context.Context) error) error
}

// Run runs the suite as subtests, each on a fixture of its own.
func Run(t *testing.T, open func(t *testing.T) Fixture) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, Fixture){
		"RoundTrip":        roundTrip,
		"CommitOnly":       commitOnly,
		"LiveOwners":       liveOwners,
		"Succession":       succession,
		"Held":             held,
		"OneClaimer":       oneClaimer,
		"CompareAndSettle": compareAndSettle,
		"FailedSettlement": failedSettlement,
		"Postpone":         postpone,
		"Park":             park,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

const (
	hour    = time.Hour
	instant = time.Microsecond
)

func intent(id, owner string) *effect.Record {
	return &effect.Record{
		ID: id, Name: "capture", Key: "pay-" + id, Owner: owner, Doubt: owner != "", Keep: hour,
		Envelope: cqrs.Envelope{ID: "cmd-" + id, Type: "payment.capture", ReplyTo: "saga.replies", Token: "t"},
		Command:  []byte(`{"c":1}`), Intent: []byte(`{"i":2}`),
	}
}

func (f Fixture) add(t *testing.T, records ...*effect.Record) {
	t.Helper()
	must(t, f.Do(t.Context(), func(ctx context.Context) error {
		for _, r := range records {
			if err := f.Store.Add(ctx, r, func() {}); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (f Fixture) claim(t *testing.T, owner string, limit int) []*effect.Record {
	t.Helper()
	records, err := f.Store.Claim(t.Context(), owner, []string{"capture", "void"}, limit)
	must(t, err)
	return records
}

func (f Fixture) beat(t *testing.T, owner string, lease time.Duration) {
	t.Helper()
	_, err := f.Store.Beat(t.Context(), owner, lease)
	must(t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ids(records []*effect.Record) string {
	var list []string
	for _, r := range records {
		list = append(list, r.ID)
	}
	return strings.Join(list, " ")
}

func want(t *testing.T, what string, records []*effect.Record, list string) {
	t.Helper()
	if got := ids(records); got != list {
		t.Fatalf("%s: claimed %q, want %q", what, got, list)
	}
}

// An intent comes back as it was recorded; who claims it after that must take it for possibly sent.
func roundTrip(t *testing.T, f Fixture) {
	f.beat(t, "#me", hour)
	recorded := intent("1", "")
	f.add(t, recorded)
	got := f.claim(t, "#me", 10)
	if len(got) != 1 || got[0].Keep > hour || got[0].Keep < hour-time.Minute {
		t.Fatalf("claimed %+v", got)
	}
	recorded.Owner, recorded.Keep, got[0].Keep = "#me", 0, 0
	if !reflect.DeepEqual(got[0], recorded) {
		t.Fatalf("got  %+v\nwant %+v", got[0], recorded)
	}
	f.beat(t, "#me", 0)
	if again := f.claim(t, "#you", 10); len(again) != 1 || !again[0].Doubt {
		t.Fatalf("claimed %+v, a doubt was expected", again)
	}
}

// What is undone was never recorded, and its committed function is not called.
func commitOnly(t *testing.T, f Fixture) {
	boom := errors.New("boom")
	var mu sync.Mutex
	told := map[string]bool{}
	var callers sync.WaitGroup
	for i := range 30 {
		callers.Go(func() {
			id := fmt.Sprintf("%02d", i)
			err := f.Do(t.Context(), func(ctx context.Context) error {
				err := f.Store.Add(ctx, intent(id, ""), func() {
					mu.Lock()
					defer mu.Unlock()
					told[id] = true
				})
				if err != nil || i%3 != 0 {
					return err
				}
				return boom
			})
			if (i%3 == 0) != errors.Is(err, boom) {
				t.Errorf("%s: %v", id, err)
			}
		})
	}
	callers.Wait()
	got := f.claim(t, "#me", 100)
	if len(got) != 20 || len(told) != 20 {
		t.Fatalf("%d stored, %d told", len(got), len(told))
	}
	for _, r := range got {
		if !told[r.ID] {
			t.Errorf("%s is stored but was not told", r.ID)
		}
	}
}

// Only what is due, known by name and held by nobody alive is claimed.
func liveOwners(t *testing.T, f Fixture) {
	f.beat(t, "#alive", hour)
	f.beat(t, "#dead", instant)
	other := intent("4", "")
	other.Name = "another"
	f.add(t, intent("1", "#alive"))
	f.add(t, intent("2", "#dead"))
	f.add(t, intent("3", ""), other)
	f.beat(t, "#me", hour)
	var got []*effect.Record
	for began := time.Now(); len(got) < 2 && time.Since(began) < 10*time.Second; { // until the dead one's lease is over
		one := f.claim(t, "#me", 1)
		if len(one) > 1 {
			t.Fatalf("claimed %q, the limit is 1", ids(one))
		}
		got = append(got, one...)
	}
	slices.SortFunc(got, func(a, b *effect.Record) int { return strings.Compare(a.ID, b.ID) })
	want(t, "what nobody alive holds", got, "2 3")
	want(t, "nothing twice", f.claim(t, "#me", 10), "")
	if _, err := f.Store.Beat(t.Context(), "#dead", hour); !errors.Is(err, effect.ErrLost) {
		t.Fatalf("a dead owner beats on: %v", err)
	}
	f.beat(t, "#alive", hour)
	f.beat(t, "#alive", 0)
	want(t, "what was given back", f.claim(t, "#me", 10), "1")
}

// The first beat of an incarnation ends the others of its name, and of no other name.
func succession(t *testing.T, f Fixture) {
	for _, owner := range []string{"pay%#1", "payments#1", "#1"} {
		f.beat(t, owner, hour)
		f.add(t, intent(owner, owner))
	}
	f.beat(t, "pay%#2", hour)
	f.beat(t, "#2", hour)
	got := f.claim(t, "pay%#2", 10)
	want(t, "of the earlier incarnation", got, "pay%#1")
	if !got[0].Doubt {
		t.Error("no doubt about what a killed run may have sent")
	}
	err := f.Store.Settle(t.Context(), intent("pay%#1", "pay%#1"), func(context.Context) error { return nil })
	if !errors.Is(err, effect.ErrLost) {
		t.Fatalf("the killed run settles: %v", err)
	}
}

// A beat returns what the owner holds, recorded or claimed by it, and can give back: that, and nothing else.
func held(t *testing.T, f Fixture) {
	wantHeld := func(what, list string) []*effect.Record {
		t.Helper()
		records, err := f.Store.Beat(t.Context(), "#me", hour)
		must(t, err)
		slices.SortFunc(records, func(a, b *effect.Record) int { return strings.Compare(a.ID, b.ID) })
		if got := ids(records); got != list {
			t.Fatalf("%s: holds %q, want %q", what, got, list)
		}
		return records
	}
	wantHeld("at first", "")
	f.beat(t, "#you", hour)
	settled, parked, tried := intent("1", "#me"), intent("2", "#me"), intent("4", "")
	tried.Attempts = 3
	f.add(t, settled, parked, intent("3", "#me"), intent("5", "#you"), intent("6", "#me"))
	must(t, f.Store.Settle(t.Context(), settled, func(context.Context) error { return nil }))
	must(t, f.Store.Postpone(t.Context(), parked, effect.Postponement{Park: true}))
	f.add(t, tried)
	want(t, "what nobody holds", f.claim(t, "#me", 10), "4")
	got := wantHeld("with one claimed", "3 4 6")
	if r := got[1]; r.Name != "capture" || r.Owner != "#me" || r.Attempts != 3 {
		t.Fatalf("holds %+v", r)
	}
	must(t, f.Store.Postpone(t.Context(), got[1], effect.Postponement{Attempts: 3, Doubt: true}))
	wantHeld("with one given back", "3 6")
	want(t, "what was given back", f.claim(t, "#you", 10), "4")
	f.beat(t, "#me", 0)
	want(t, "all the others", f.claim(t, "#you", 1), "3")
}

// However many claim at the same time, each intent has one claimer.
func oneClaimer(t *testing.T, f Fixture) {
	const n = 60
	var all []*effect.Record
	for i := range n {
		all = append(all, intent(fmt.Sprintf("%02d", i), ""))
	}
	f.add(t, all...)
	var mu sync.Mutex
	claimers := map[string]string{}
	var wg sync.WaitGroup
	for c := range 6 {
		wg.Go(func() {
			owner := fmt.Sprintf("#%d", c)
			if _, err := f.Store.Beat(t.Context(), owner, hour); err != nil {
				t.Error(err)
			}
			for range n / 5 {
				got, err := f.Store.Claim(t.Context(), owner, []string{"capture"}, 5)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				for _, r := range got {
					if other := claimers[r.ID]; other != "" {
						t.Errorf("%s was claimed by %s and %s", r.ID, other, owner)
					}
					claimers[r.ID] = owner
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(claimers) != n {
		t.Fatalf("%d of %d were claimed", len(claimers), n)
	}
}

// Only who holds an intent settles it, once.
func compareAndSettle(t *testing.T, f Fixture) {
	rec := intent("1", "#me")
	f.add(t, rec)
	applied := 0
	apply := func(context.Context) error { applied++; return nil }
	err := f.Store.Settle(t.Context(), intent("1", "#former"), apply)
	if !errors.Is(err, effect.ErrLost) || applied != 0 {
		t.Fatalf("Settle by a former owner = %v", err)
	}
	must(t, f.Store.Settle(t.Context(), rec, apply))
	if err := f.Store.Settle(t.Context(), rec, apply); !errors.Is(err, effect.ErrLost) || applied != 1 {
		t.Fatalf("a second Settle = %v, applied %d times", err, applied)
	}
	if err := f.Store.Postpone(t.Context(), rec, effect.Postponement{}); !errors.Is(err, effect.ErrLost) {
		t.Fatalf("Postpone of what is settled = %v", err)
	}
}

// A settlement that fails leaves the intent with its owner, and what it recorded itself is undone.
func failedSettlement(t *testing.T, f Fixture) {
	rec := intent("1", "#me")
	f.add(t, rec)
	boom := errors.New("boom")
	err := f.Store.Settle(t.Context(), rec, func(ctx context.Context) error {
		if err := f.Store.Add(ctx, intent("2", ""), func() { t.Error("told of what was undone") }); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatalf("Settle = %v", err)
	}
	must(t, f.Store.Settle(t.Context(), rec, func(context.Context) error { return nil }))
	want(t, "nothing is left", f.claim(t, "#me", 10), "")
}

// What is postponed is claimed again when it is due, with what was written down.
func postpone(t *testing.T, f Fixture) {
	rec := intent("1", "#me")
	f.add(t, rec)
	must(t, f.Store.Postpone(t.Context(), rec, effect.Postponement{Attempts: 3, Error: "refused"}))
	got := f.claim(t, "#you", 10)
	if ids(got) != "1" || got[0].Attempts != 3 || got[0].Doubt {
		t.Fatalf("claimed %+v", got)
	}
	if err := f.Store.Postpone(t.Context(), rec, effect.Postponement{}); !errors.Is(err, effect.ErrLost) {
		t.Fatalf("Postpone by a former owner = %v", err)
	}
	before := *got[0]
	before.Attempts--
	if err := f.Store.Postpone(t.Context(), &before, effect.Postponement{}); !errors.Is(err, effect.ErrLost) {
		t.Fatalf("Postpone by an earlier holding of the owner = %v", err)
	}
	must(t, f.Store.Postpone(t.Context(), got[0], effect.Postponement{Delay: hour, Doubt: true}))
	want(t, "before its time", f.claim(t, "#you", 10), "")
}

// What is parked is left alone.
func park(t *testing.T, f Fixture) {
	rec := intent("1", "#me")
	f.add(t, rec)
	must(t, f.Store.Postpone(t.Context(), rec, effect.Postponement{Park: true, Error: strings.Repeat("ü", 5000)}))
	want(t, "a parked intent", f.claim(t, "#you", 10), "")
	err := f.Store.Settle(t.Context(), rec, func(context.Context) error { return nil })
	if !errors.Is(err, effect.ErrLost) {
		t.Fatalf("Settle of a parked intent = %v", err)
	}
}
