package cqrstest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// DeadLettersFixture is an empty store and the transactions that its methods join.
type DeadLettersFixture struct {
	DeadLetters cqrs.DeadLetters
	Work        cqrs.UnitOfWork
}

// RunDeadLetters is the conformance suite of [cqrs.DeadLetters]. It runs as subtests, each on a fixture of its own.
func RunDeadLetters(t *testing.T, open func(t *testing.T) DeadLettersFixture) {
	t.Helper()
	runCases(t, open, map[string]func(*testing.T, DeadLettersFixture){
		"RoundTrip":   deadRoundTrip,
		"PutTwice":    deadPutTwice,
		"Replay":      deadReplay,
		"DeadAgain":   deadAgain,
		"Resolve":     deadResolve,
		"GroupsApart": deadGroups,
		"Undo":        deadUndo,
		"OddNames":    deadOddNames,
		"Many":        deadMany,
		"OneReplayer": deadOneReplayer,
	})
}

func letter(id string) *cqrs.DeadLetter {
	return &cqrs.DeadLetter{
		Record: record("k1", id), Reason: "no luck: 100%\n\tat the till",
		DiedAt: time.Date(2026, 1, 2, 3, 4, 5, 678_000, time.UTC),
	}
}

func (f DeadLettersFixture) put(t testing.TB, letters ...*cqrs.DeadLetter) {
	t.Helper()
	commit(t, f.Work, func(ctx context.Context) error { return f.DeadLetters.Put(ctx, letters) })
}

func (f DeadLettersFixture) get(t testing.TB, ids ...string) (got []*cqrs.DeadLetter) {
	t.Helper()
	commit(t, f.Work, func(ctx context.Context) (err error) {
		got, err = f.DeadLetters.Get(ctx, group, ids)
		return err
	})
	slices.SortFunc(got, func(a, b *cqrs.DeadLetter) int { return strings.Compare(a.ID, b.ID) })
	return got
}

func (f DeadLettersFixture) replay(t testing.TB, ids ...string) string {
	t.Helper()
	var turned []*cqrs.DeadLetter
	commit(t, f.Work, func(ctx context.Context) (err error) {
		turned, err = f.DeadLetters.Replay(ctx, group, ids)
		return err
	})
	return lettersOf(turned)
}

func (f DeadLettersFixture) resolve(t testing.TB, ids ...string) {
	t.Helper()
	commit(t, f.Work, func(ctx context.Context) error { return f.DeadLetters.Resolve(ctx, group, ids) })
}

// lettersOf returns the IDs, sorted: the port promises no order.
func lettersOf(letters []*cqrs.DeadLetter) string {
	ids := make([]string, len(letters))
	for i, l := range letters {
		ids[i] = l.ID
	}
	slices.Sort(ids)
	return strings.Join(ids, " ")
}

func deadRoundTrip(t *testing.T, f DeadLettersFixture) {
	whole, bare := letter("m1"), letter("m2")
	whole.Blocking = true
	bare.Payload, bare.Metadata, bare.Failures, bare.Reason = nil, nil, nil, ""
	f.put(t, whole, bare)
	got := f.get(t, "m1", "m2", "m9")
	want(t, "found", lettersOf(got), "m1 m2")
	want(t, "the letter", *got[0], *whole)
	if b := got[1]; len(b.Payload)+len(b.Metadata)+len(b.Failures)+len(b.Reason) != 0 || b.Blocking {
		t.Fatalf("a letter with nothing came back as %+v", b)
	}
}

func deadPutTwice(t *testing.T, f DeadLettersFixture) {
	second := letter("m1")
	second.Reason, second.Attempt, second.Payload = "another", 9, []byte("other")
	f.put(t, letter("m1"))
	f.put(t, second, letter("m2"))
	got := f.get(t, "m1", "m2")
	want(t, "found", lettersOf(got), "m1 m2")
	want(t, "one that is dead stays as it is", *got[0], *letter("m1"))
}

func deadReplay(t *testing.T, f DeadLettersFixture) {
	f.put(t, letter("m1"), letter("m2"))
	want(t, "turned", f.replay(t, "m1", "m9"), "m1")
	want(t, "turned, of which one was", f.replay(t, "m1", "m2"), "m2")
	want(t, "turned again", f.replay(t, "m1", "m2"), "")
	got := f.get(t, "m1")
	if len(got) != 1 {
		t.Fatal("a letter that is being replayed is not found")
	}
	want(t, "a letter that is being replayed", *got[0], *letter("m1"))
}

func deadAgain(t *testing.T, f DeadLettersFixture) {
	f.put(t, letter("m1"))
	want(t, "turned", f.replay(t, "m1"), "m1")
	worse := letter("m1")
	worse.Reason, worse.Attempt, worse.Payload, worse.Blocking = "worse luck", 7, []byte("edited"), true
	worse.Metadata = map[string]string{"x": "edited"}
	worse.Failures = append(worse.Failures, cqrs.Failure{At: time.Unix(1, 0).UTC(), Error: "again"})
	f.put(t, worse)
	got := f.get(t, "m1")
	want(t, "found", lettersOf(got), "m1")
	want(t, "after a replay that failed", *got[0], *worse)
	want(t, "turned again", f.replay(t, "m1"), "m1")
}

func deadResolve(t *testing.T, f DeadLettersFixture) {
	f.put(t, letter("m1"), letter("m2"), letter("m3"))
	f.replay(t, "m2")
	f.resolve(t, "m1", "m2", "m9")
	want(t, "left", lettersOf(f.get(t, "m1", "m2", "m3")), "m3")
	want(t, "turned", f.replay(t, "m1", "m2"), "")
	f.put(t, letter("m1"))
	want(t, "dead anew", lettersOf(f.get(t, "m1")), "m1")
}

func deadGroups(t *testing.T, f DeadLettersFixture) {
	other := letter("m1")
	other.Group = elsewhere
	f.put(t, other)
	want(t, "another group's", lettersOf(f.get(t, "m1")), "")
	want(t, "turned", f.replay(t, "m1"), "")
	f.put(t, letter("m1"))
	f.resolve(t, "m1")
	var left []*cqrs.DeadLetter
	commit(t, f.Work, func(ctx context.Context) (err error) {
		left, err = f.DeadLetters.Replay(ctx, elsewhere, []string{"m1"})
		return err
	})
	want(t, "the other group's", lettersOf(left), "m1")
}

func deadUndo(t *testing.T, f DeadLettersFixture) {
	undo(t, f.Work, func(ctx context.Context) error {
		return f.DeadLetters.Put(ctx, []*cqrs.DeadLetter{letter("m1")})
	})
	want(t, "an undone Put", lettersOf(f.get(t, "m1")), "")
	f.put(t, letter("m1"))
	undo(t, f.Work, func(ctx context.Context) error {
		_, err := f.DeadLetters.Replay(ctx, group, []string{"m1"})
		return err
	})
	undo(t, f.Work, func(ctx context.Context) error { return f.DeadLetters.Resolve(ctx, group, []string{"m1"}) })
	want(t, "an undone Replay or Resolve", f.replay(t, "m1"), "m1")
}

func deadOddNames(t *testing.T, f DeadLettersFixture) {
	names := oddNames()
	all := make([]*cqrs.DeadLetter, len(names))
	for i, name := range names {
		all[i] = letter(name)
		all[i].Queue, all[i].Type = name, name
		all[i].Reason = strings.Repeat("because ", 1000)
	}
	f.put(t, all...)
	got := map[string]cqrs.DeadLetter{}
	for _, l := range f.get(t, names...) {
		got[l.ID] = *l
	}
	for i, name := range names {
		want(t, "stored as "+name, got[name], *all[i])
	}
	f.resolve(t, "m1")
	want(t, "similar names", lettersOf(f.get(t, "M1", "m1", "m1 ")), "M1 m1 ")
}

func deadMany(t *testing.T, f DeadLettersFixture) {
	ids := numbered("m", many)
	all := make([]*cqrs.DeadLetter, many)
	for i, id := range ids {
		all[i] = letter(id)
		all[i].Payload = all[i].Payload[:8]
	}
	f.put(t, all...)
	want(t, "found", len(f.get(t, ids...)), many)
	f.resolve(t, ids[many/2:]...)
	want(t, "turned", len(strings.Fields(f.replay(t, ids...))), many/2)
}

// deadOneReplayer has people replay the same letters at the same time: each is turned by one of them.
func deadOneReplayer(t *testing.T, f DeadLettersFixture) {
	ids := numbered("m", 40)
	all := make([]*cqrs.DeadLetter, len(ids))
	for i, id := range ids {
		all[i] = letter(id)
	}
	f.put(t, all...)
	var mu sync.Mutex
	turns := map[string]int{}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			var turned []*cqrs.DeadLetter
			some := slices.Concat(ids[w*10:], ids[:w*10]) // in another order each
			err := f.Work.Do(t.Context(), func(ctx context.Context) (err error) {
				turned, err = f.DeadLetters.Replay(ctx, group, some)
				return err
			})
			if err != nil {
				t.Error(fmt.Errorf("replay: %w", err))
			}
			mu.Lock()
			defer mu.Unlock()
			for _, l := range turned {
				turns[l.ID]++
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		want(t, id+" was turned", turns[id], 1)
	}
}
