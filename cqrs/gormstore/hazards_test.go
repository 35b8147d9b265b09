package gormstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/effect"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/outbox/uow"
)

// While another replica consumes the head and promotes what is behind it, whoever looks whether the queue is parked
// waits for that, and must then see the new head.
func TestRule04_AQueueStaysParkedWhileItsHeadChanges(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		if f.db.Name() == "sqlite" {
			t.Skip("one writer at a time")
		}
		first, second := parked("k1", "m1"), parked("k1", "m2")
		f.append(t, first, second)
		consumed, commit := make(chan struct{}), make(chan struct{})
		done := make(chan error, 1)
		go func() {
			done <- f.work.Do(t.Context(), func(ctx context.Context) error {
				err := gormstore.NewParking().Consume(ctx, []*cqrs.Parked{first})
				close(consumed)
				<-commit
				return err
			})
		}()
		<-consumed
		time.AfterFunc(300*time.Millisecond, func() { close(commit) })
		var got []bool
		f.do(t, func(ctx context.Context) (err error) {
			got, err = gormstore.NewParking().Parked(ctx, grp, []string{"k1"})
			return err
		})
		must(t, <-done)
		if !got[0] {
			t.Error("m2 waits in the queue, and its successor was told that it may run")
		}
	})
}

// A message that was parked first and committed last comes before one that is leased already: it waits for that.
func TestRule04_NothingIsLeasedBesideAMessageOfItsQueue(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		if f.db.Name() == "sqlite" {
			t.Skip("one writer at a time")
		}
		parkedFirst, commit := make(chan struct{}), make(chan struct{})
		done := make(chan error, 1)
		go func() {
			done <- f.work.Do(t.Context(), func(ctx context.Context) error {
				err := gormstore.NewParking().Append(ctx, []*cqrs.Parked{parked("k1", "m1")})
				close(parkedFirst)
				<-commit
				return err
			})
		}()
		<-parkedFirst
		f.append(t, parked("k1", "m2"))
		leased := f.lease(t, 1, time.Hour)
		close(commit)
		must(t, <-done)
		if got := idsOf(leased); got != "m2" {
			t.Fatalf("leased %q, want m2", got)
		}
		if got := idsOf(f.lease(t, 10, time.Hour)); got != "" {
			t.Errorf("leased %q beside m2", got)
		}
		must(t, f.consume(t, leased...))
		if got := idsOf(f.lease(t, 10, time.Hour)); got != "m1" {
			t.Errorf("leased %q behind m2, want m1", got)
		}
	})
}

// An error's text may be anything, a provider's answer for instance; it must not keep the error from being stored.
func TestErrorTextThatNoDatabaseTakes(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		e, err := gormstore.NewEffects(f.work)
		must(t, err)
		beat(t, e, "o#1", time.Minute)
		rec := &effect.Record{ID: "1", Name: "n", Key: "k", Owner: "o#1", Command: []byte("{}"), Intent: []byte("{}")}
		f.do(t, func(ctx context.Context) error { return e.Add(ctx, rec, func() {}) })
		if err := e.Postpone(t.Context(), rec, effect.Postponement{Attempts: 1, Error: "502: \x00\xff\xfe"}); err != nil {
			t.Errorf("postpone: %v", err)
		}
		d, err := gormstore.NewDeadLetters(f.work, gormstore.DeadLettersConfig{})
		must(t, err)
		l := &cqrs.DeadLetter{Record: parked("k", "m").Record, Reason: "502: \x00\xff\xfe", DiedAt: time.Now()}
		err = f.work.Do(t.Context(), func(ctx context.Context) error { return d.Put(ctx, []*cqrs.DeadLetter{l}) })
		if err != nil {
			t.Errorf("dead letter: %v", err)
		}
	})
}

// Results that are refused without a write keep their places in the shared transaction.
func TestRule01_RefusedSettlementsDoNotCostTheBatch(t *testing.T) {
	t.Parallel()
	f := onSQLite(t)
	e := effects(t, f)
	beat(t, e, "o#1", time.Minute)
	const n = 16
	records := make([]*effect.Record, n)
	for i := range records {
		records[i] = intent(fmt.Sprint(i), "o#1")
	}
	add(t, f, e, records...)
	var err error
	f.work, err = uow.New(f.db, uow.Config{MaxShare: n, Linger: time.Minute}) // they all share
	must(t, err)
	e = effects(t, f)
	done := make(chan error, n)
	for _, r := range records {
		go func() {
			done <- e.Settle(t.Context(), r, func(context.Context) error { return cqrs.Reject("no", nil) })
		}()
	}
	for range n {
		if err := <-done; cqrs.AsRejection(err) == nil {
			t.Error(err)
		}
	}
	if got := f.work.Stats(); got.Restarts != 0 || got.Commits != 1 {
		t.Errorf("%+v for %d refusals, want one commit and no restart", got, n)
	}
}

// Whoever removes a message from the middle of a queue, as a discard does, and whoever consumes its head at the same
// time leave a queue that goes on.
func TestRule05_DiscardInTheMiddleWhileTheHeadIsConsumed(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		if f.db.Name() == "sqlite" {
			t.Skip("one writer at a time")
		}
		head, middle, last := parked("k1", "m1"), parked("k1", "m2"), parked("k1", "m3")
		f.append(t, head, middle, last)
		must(t, f.reschedule(t, &cqrs.Parked{Record: last.Record, Delay: time.Minute}))
		leased := f.lease(t, 2, time.Minute)
		if idsOf(leased) != "m1 m2" {
			t.Fatalf("leased %s", idsOf(leased))
		}
		must(t, f.reschedule(t, &cqrs.Parked{Record: last.Record}))
		removed, commit := make(chan struct{}), make(chan struct{})
		done := make(chan error, 1)
		go func() {
			done <- f.work.Do(t.Context(), func(ctx context.Context) error {
				err := gormstore.NewParking().Consume(ctx, []*cqrs.Parked{{Record: middle.Record}})
				close(removed)
				<-commit
				return err
			})
		}()
		<-removed
		time.AfterFunc(300*time.Millisecond, func() { close(commit) })
		must(t, f.consume(t, leased[0]))
		must(t, <-done)
		if got := idsOf(f.lease(t, 10, time.Minute)); got != "m3" {
			t.Errorf("leased %q, want m3: the queue has lost its head", got)
		}
	})
}
