package cqrstest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/aggregate"
)

// Sample is the aggregate of [RunRepository]. GORM maps it to the table samples.
type Sample struct {
	aggregate.Root
	ID    string `gorm:"primaryKey;size:200"`
	Name  string
	Units int
	Note  *string
}

// Changed is what a [Sample] records.
type Changed struct{ ID, What string }

func (s *Sample) change(what string) *Sample {
	s.Name = what
	s.Record(Changed{s.ID, what})
	return s
}

// RepositoryFixture is an empty repository and the transactions that its methods join.
type RepositoryFixture struct {
	Repository aggregate.Repository[Sample, string]
	// Work is nil for a repository without transactions, which skips what needs them.
	Work cqrs.UnitOfWork
	// Published returns what was published so far by transactions that have committed, in order.
	Published func() []any
}

// RunRepository is the conformance suite of [aggregate.Repository]. It runs as subtests, each on a fixture of its own.
func RunRepository(t *testing.T, open func(t *testing.T) RepositoryFixture) {
	t.Helper()
	runCases(t, open, map[string]func(*testing.T, RepositoryFixture){
		"RoundTrip": repoRoundTrip,
		"NotFound":  repoNotFound,
		"Exists":    repoExists,
		"Conflict":  repoConflict,
		"Delete":    repoDelete,
		"DeleteNew": repoDeleteNew,
		"Copies":    repoCopies,
		"Undo":      repoUndo,
		"Race":      repoRace,
	})
}

// do runs fn in a transaction, if there are any.
func (f RepositoryFixture) do(ctx context.Context, fn func(ctx context.Context) error) error {
	if f.Work == nil {
		return fn(ctx)
	}
	return f.Work.Do(ctx, fn)
}

func (f RepositoryFixture) save(t testing.TB, s *Sample) error {
	t.Helper()
	return f.do(t.Context(), func(ctx context.Context) error { return f.Repository.Save(ctx, s) })
}

func (f RepositoryFixture) get(t testing.TB, id string) (s *Sample, err error) {
	t.Helper()
	err = f.do(t.Context(), func(ctx context.Context) (err error) { s, err = f.Repository.Get(ctx, id); return err })
	return s, err
}

func (f RepositoryFixture) delete(t testing.TB, s *Sample) error {
	t.Helper()
	return f.do(t.Context(), func(ctx context.Context) error { return f.Repository.Delete(ctx, s) })
}

func (f RepositoryFixture) there(t testing.TB, id string) *Sample {
	t.Helper()
	s, err := f.get(t, id)
	must(t, err)
	return s
}

func isErr(t testing.TB, what string, err, is error) {
	t.Helper()
	if !errors.Is(err, is) {
		t.Fatalf("%s: got error %v, want %v", what, err, is)
	}
}

func repoRoundTrip(t *testing.T, f RepositoryFixture) {
	note := "ring twice: é \"'\\\n"
	s := &Sample{ID: "s-1", Units: 3, Note: &note}
	must(t, f.save(t, s.change("made")))
	want(t, "the version of what was saved", s.Version, int64(1))
	want(t, "what is left of its events", len(s.Recorded()), 0)
	got := f.there(t, "s-1")
	want(t, "loaded", *got, *s)
	got.Note, got.Units = nil, 0
	must(t, f.save(t, got.change("emptied")))
	got = f.there(t, "s-1")
	if got.Version != 2 || got.Note != nil || got.Units != 0 || got.Name != "emptied" {
		t.Fatalf("loaded %+v", got)
	}
	want(t, "published", f.Published(), []any{Changed{"s-1", "made"}, Changed{"s-1", "emptied"}})
}

func repoNotFound(t *testing.T, f RepositoryFixture) {
	_, err := f.get(t, "s-9")
	isErr(t, "Get", err, aggregate.ErrNotFound)
}

func repoExists(t *testing.T, f RepositoryFixture) {
	must(t, f.save(t, (&Sample{ID: "s-1"}).change("first")))
	isErr(t, "a second one", f.save(t, (&Sample{ID: "s-1"}).change("second")), aggregate.ErrExists)
	want(t, "stored", f.there(t, "s-1").Name, "first")
	want(t, "published", f.Published(), []any{Changed{"s-1", "first"}})
}

func repoConflict(t *testing.T, f RepositoryFixture) {
	must(t, f.save(t, &Sample{ID: "s-1"}))
	one, two := f.there(t, "s-1"), f.there(t, "s-1")
	must(t, f.save(t, one.change("one")))
	isErr(t, "a stale Save", f.save(t, two.change("two")), aggregate.ErrConflict)
	isErr(t, "a stale Delete", f.delete(t, f.stale(t, "s-1")), aggregate.ErrConflict)
	want(t, "stored", f.there(t, "s-1").Name, "one")
	want(t, "published", f.Published(), []any{Changed{"s-1", "one"}})
}

// stale returns an aggregate that somebody else has saved since.
func (f RepositoryFixture) stale(t testing.TB, id string) *Sample {
	t.Helper()
	old, s := f.there(t, id), f.there(t, id)
	s.Units++
	must(t, f.save(t, s))
	return old
}

func repoDelete(t *testing.T, f RepositoryFixture) {
	must(t, f.save(t, &Sample{ID: "s-1"}))
	s, gone := f.there(t, "s-1"), f.there(t, "s-1")
	s.Record(Changed{"s-1", "deleted"})
	must(t, f.delete(t, s))
	_, err := f.get(t, "s-1")
	isErr(t, "Get", err, aggregate.ErrNotFound)
	isErr(t, "Save of what is gone", f.save(t, gone.change("revived")), aggregate.ErrConflict)
	want(t, "published", f.Published(), []any{Changed{"s-1", "deleted"}})
	must(t, f.save(t, &Sample{ID: "s-1", Name: "anew"}))
	want(t, "made anew", f.there(t, "s-1").Version, int64(1))
	must(t, f.delete(t, f.there(t, "s-1")))
	s.Name = "revived"
	must(t, f.save(t, s)) // what was deleted is new
	want(t, "made of what was deleted", f.there(t, "s-1").Version, int64(1))
}

// An aggregate that was never saved is not there to be deleted, even where its ID is taken.
func repoDeleteNew(t *testing.T, f RepositoryFixture) {
	must(t, f.save(t, &Sample{ID: "s-1", Name: "kept"}))
	for _, id := range []string{"s-1", "s-9"} {
		isErr(t, "Delete of a new one", f.delete(t, (&Sample{ID: id}).change("deleted")), aggregate.ErrNotFound)
	}
	want(t, "stored", f.there(t, "s-1").Name, "kept")
	want(t, "published", len(f.Published()), 0)
}

func repoCopies(t *testing.T, f RepositoryFixture) {
	must(t, f.save(t, &Sample{ID: "s-1", Units: 1}))
	f.there(t, "s-1").Units = 99
	want(t, "an unsaved change", f.there(t, "s-1").Units, 1)
}

func repoUndo(t *testing.T, f RepositoryFixture) {
	if f.Work == nil {
		t.Skip("the repository has no transactions")
	}
	must(t, f.save(t, &Sample{ID: "s-1", Name: "kept"}))
	undo(t, f.Work, func(ctx context.Context) error {
		s, err := f.Repository.Get(ctx, "s-1")
		if err != nil {
			return err
		}
		return errors.Join(
			f.Repository.Save(ctx, s.change("lost")), f.Repository.Save(ctx, (&Sample{ID: "s-2"}).change("lost")))
	})
	undo(t, f.Work, func(ctx context.Context) error {
		s, err := f.Repository.Get(ctx, "s-1")
		if err != nil {
			return err
		}
		return f.Repository.Delete(ctx, s)
	})
	want(t, "stored", f.there(t, "s-1").Name, "kept")
	_, err := f.get(t, "s-2")
	isErr(t, "Get", err, aggregate.ErrNotFound)
	want(t, "published", len(f.Published()), 0)
}

// repoRace has many add to one aggregate at once, each again until it is not too late: no addition is lost.
func repoRace(t *testing.T, f RepositoryFixture) {
	const writers, each = 4, 10
	must(t, f.save(t, &Sample{ID: "s-1"}))
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range each {
				if err := f.add(t, fmt.Sprint(w, "-", n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s := f.there(t, "s-1")
	want(t, "units", s.Units, writers*each)
	want(t, "version", s.Version, int64(1+writers*each))
	want(t, "published", len(f.Published()), writers*each)
}

func (f RepositoryFixture) add(t testing.TB, what string) error {
	for {
		err := f.do(t.Context(), func(ctx context.Context) error {
			s, err := f.Repository.Get(ctx, "s-1")
			if err != nil {
				return err
			}
			s.Units++
			return f.Repository.Save(ctx, s.change(what))
		})
		if !errors.Is(err, aggregate.ErrConflict) {
			return err
		}
	}
}
