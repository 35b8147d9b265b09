package cqrstest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/surge-go/surge/cqrs"
)

// InboxFixture is an empty store and the transactions that its methods join.
type InboxFixture struct {
	Inbox cqrs.Inbox
	Work  cqrs.UnitOfWork
}

// RunInbox is the conformance suite of [cqrs.Inbox]. It runs as subtests, each on a fixture of its own.
func RunInbox(t *testing.T, open func(t *testing.T) InboxFixture) {
	t.Helper()
	runCases(t, open, map[string]func(*testing.T, InboxFixture){
		"Claim":       inboxClaim,
		"Nothing":     inboxNothing,
		"GroupsApart": inboxGroups,
		"Unclaim":     inboxUnclaim,
		"SameUnit":    inboxSameUnit,
		"Undo":        inboxUndo,
		"UndoPart":    inboxUndoPart,
		"OddNames":    inboxOddNames,
		"Many":        inboxMany,
		"Race":        inboxRace,
	})
}

func (f InboxFixture) claim(t testing.TB, group string, ids ...string) (fresh []bool) {
	t.Helper()
	commit(t, f.Work, func(ctx context.Context) (err error) {
		fresh, err = f.Inbox.Claim(ctx, group, ids)
		return err
	})
	return fresh
}

func (f InboxFixture) unclaim(t testing.TB, ids ...string) {
	t.Helper()
	commit(t, f.Work, func(ctx context.Context) error { return f.Inbox.Unclaim(ctx, group, ids) })
}

func inboxClaim(t *testing.T, f InboxFixture) {
	want(t, "first", f.claim(t, group, "m1", "m3", "m5"), []bool{true, true, true})
	want(t, "some again", f.claim(t, group, "m1", "m2", "m3", "m4"), []bool{false, true, false, true})
	want(t, "all again", f.claim(t, group, "m1", "m2", "m3", "m4", "m5"), make([]bool, 5))
}

func inboxNothing(t *testing.T, f InboxFixture) {
	want(t, "answers for nothing", len(f.claim(t, group)), 0)
	f.unclaim(t)
}

func inboxGroups(t *testing.T, f InboxFixture) {
	f.claim(t, group, "m1", "m2")
	want(t, "another group", f.claim(t, elsewhere, "m1", "m3"), []bool{true, true})
	f.unclaim(t, "m1", "m3")
	want(t, "this group", f.claim(t, group, "m1", "m2", "m3"), []bool{true, false, true})
	want(t, "the other group", f.claim(t, elsewhere, "m1", "m3"), []bool{false, false})
}

func inboxUnclaim(t *testing.T, f InboxFixture) {
	f.claim(t, group, "m1", "m2")
	f.unclaim(t, "m2", "m9")
	want(t, "forgotten", f.claim(t, group, "m1", "m2", "m9"), []bool{false, true, true})
}

// What is claimed and unclaimed in one transaction is as if it had never come, there and after it.
func inboxSameUnit(t *testing.T, f InboxFixture) {
	commit(t, f.Work, func(ctx context.Context) error {
		for _, w := range [][]bool{{true, true}, {false, true}} {
			fresh, err := f.Inbox.Claim(ctx, group, []string{"m1", "m2"})
			if err != nil {
				return err
			}
			want(t, "within the transaction", fresh, w)
			if err := f.Inbox.Unclaim(ctx, group, []string{"m2"}); err != nil {
				return err
			}
		}
		return nil
	})
	want(t, "after it", f.claim(t, group, "m1", "m2"), []bool{false, true})
}

func inboxUndo(t *testing.T, f InboxFixture) {
	f.claim(t, group, "m1")
	undo(t, f.Work, func(ctx context.Context) error {
		if err := f.Inbox.Unclaim(ctx, group, []string{"m1"}); err != nil {
			return err
		}
		_, err := f.Inbox.Claim(ctx, group, []string{"m2"})
		return err
	})
	want(t, "after the undo", f.claim(t, group, "m1", "m2"), []bool{false, true})
}

// An inner part that fails takes its claims with it, and no others.
func inboxUndoPart(t *testing.T, f InboxFixture) {
	commit(t, f.Work, func(ctx context.Context) error {
		if _, err := f.Inbox.Claim(ctx, group, []string{"m1"}); err != nil {
			return err
		}
		err := f.Work.Do(ctx, func(ctx context.Context) error {
			if _, err := f.Inbox.Claim(ctx, group, []string{"m2"}); err != nil {
				return err
			}
			return errUndo
		})
		if err == nil {
			return fmt.Errorf("the part's error is gone")
		}
		if !isUndo(err) {
			return err // the whole runs again
		}
		return nil
	})
	want(t, "after it", f.claim(t, group, "m1", "m2"), []bool{false, true})
}

func inboxOddNames(t *testing.T, f InboxFixture) {
	names := slices.Sorted(slices.Values(oddNames()))
	for _, fresh := range f.claim(t, group, names...) {
		if !fresh {
			t.Error("a name is taken for another one")
		}
	}
	want(t, "again", f.claim(t, group, names...), make([]bool, len(names)))
	f.unclaim(t, "m1")
	want(t, "similar names", f.claim(t, group, "M1", "m1", "m1 "), []bool{false, true, false})
}

func inboxMany(t *testing.T, f InboxFixture) {
	ids := numbered("m", many)
	f.claim(t, group, ids[:many/2]...)
	for i, fresh := range f.claim(t, group, ids...) {
		if fresh != (i >= many/2) {
			t.Fatalf("%s is new: %v", ids[i], fresh)
		}
	}
	f.unclaim(t, ids...)
	if fresh := f.claim(t, group, ids...); slices.Contains(fresh, false) {
		t.Fatal("what was unclaimed is known")
	}
}

// inboxRace has members of a group claim overlapping batches, as in a rebalance: each message is new to exactly one
// transaction that commits, and those that are undone leave theirs to others.
func inboxRace(t *testing.T, f InboxFixture) {
	const members, rounds, size = 4, 15, 20
	var mu sync.Mutex
	times := map[string]int{}
	var wg sync.WaitGroup
	for m := range members {
		wg.Go(func() {
			for round := range rounds {
				ids := numbered(fmt.Sprintf("m-%02d-", round), size+m)[m:]
				var mine []string
				err := f.Work.Do(t.Context(), func(ctx context.Context) error {
					mine = nil
					fresh, err := f.Inbox.Claim(ctx, group, ids)
					for i, is := range fresh {
						if is {
							mine = append(mine, ids[i])
						}
					}
					if err == nil && (round+m)%5 == 0 {
						err = errUndo
					}
					return err
				})
				if err != nil && !isUndo(err) {
					t.Error(err)
				}
				mu.Lock()
				for _, id := range mine {
					if err == nil {
						times[id]++
					}
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for id, n := range times {
		if n != 1 {
			t.Errorf("%s was new to %d transactions", id, n)
		}
	}
	for round := range rounds {
		for _, id := range numbered(fmt.Sprintf("m-%02d-", round), size)[members:] {
			if times[id] != 1 {
				t.Errorf("%s was new to nobody, although most committed", id)
			}
		}
	}
}
