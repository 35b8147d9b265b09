package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// A scheduled message waits in its lane for longer than its lease; another process moves it to the queue of its key, and
// there it is leased here again. It runs as what it is now, and what is behind it waits for it.
func TestRule04_AMessageThatWasMovedToItsKeyMeanwhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := sideBySideConfig(b)
		store := cfg.Parking.(oneCall)
		cfg.Lanes, cfg.Poll, cfg.DeadLetters = 1, 30*time.Second, letters{b}
		s := newService(t, b, catalog(), cfg)
		var mu sync.Mutex
		var ran []string
		cqrs.On(s.p, func(ctx context.Context, n note) error {
			if n.Order == "slow" {
				time.Sleep(time.Minute)
				return nil
			}
			mu.Lock()
			ran = append(ran, n.Text)
			mu.Unlock()
			return nil
		})
		start := time.Now()
		s.run()
		synctest.Wait()
		m := noteMsg("first", "k", "first")
		m.Metadata[cqrs.HeaderDeliverAt] = start.Add(time.Second).UTC().Format(time.RFC3339Nano)
		s.deliver("shop.commands", m)
		time.Sleep(500 * time.Millisecond)
		s.deliver("shop.commands", noteMsg("0", "slow", ""))
		time.Sleep(7 * time.Second) // first is leased, in its lane; its lease is over
		// Another process runs it: its key is parked (a head that is gone later), so it goes behind that.
		ctx := context.WithValue(t.Context(), txKey{}, &frame{})
		got, err := store.Lease(ctx, "shop", 1, 5*time.Second)
		if err != nil || len(got) != 1 || got[0].ID != "first" || got[0].Queue != "first" {
			t.Fatal(got, err)
		}
		moved := *got[0]
		moved.Lease, moved.Queue = "", "shop.commands|k"
		second := moved
		second.ID, second.Payload = "second", []byte(`{"Order":"k","Text":"second"}`)
		if err := errors.Join(store.Consume(ctx, got), store.Append(ctx, []*cqrs.Parked{&moved, &second})); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		s.stop()
		if fmt.Sprint(ran) != "[first second]" {
			t.Errorf("ran %v, want [first second]", ran)
		}
	})
}

// lateAnswers commits at once, but the answer to some commits takes its time.
type lateAnswers struct{ late *sync.Map }

func (l lateAnswers) Do(ctx context.Context, fn func(context.Context) error) error {
	if inTx(ctx) {
		return fn(ctx)
	}
	f := &frame{}
	err := fn(context.WithValue(context.WithoutCancel(ctx), txKey{}, f))
	if _, late := l.late.Load(f); late {
		time.Sleep(time.Second)
	}
	return err
}

// The answer to the COMMIT that postpones a message may come after its next due time: it is leased before its lane is
// done with it. It runs then, and does not wait for the lease to end.
func TestRule04_ALeaseBetweenCommitAndItsAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := sideBySideConfig(b)
		var late sync.Map
		cfg.UnitOfWork = lateAnswers{&late}
		cfg.Lanes, cfg.Poll = 1, 100*time.Millisecond
		s := newService(t, b, catalog(), cfg)
		start := time.Now()
		var runs []time.Duration
		cqrs.On(s.p, func(ctx context.Context, n note) error {
			runs = append(runs, time.Since(start))
			switch len(runs) {
			case 1:
				time.Sleep(20 * time.Second) // leases are 7 times as long from now on
				return errors.New("not now")
			case 2: // of the parked one
				late.Store(ctx.Value(txKey{}), true)
				return errors.New("not now")
			}
			return nil
		})
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("1", "k", ""))
		time.Sleep(10 * time.Minute)
		s.stop()
		if len(runs) != 3 || runs[2]-runs[1] > 10*time.Second {
			t.Errorf("runs at %v: the third, due 200ms after the second, is late", runs)
		}
	})
}

// A message that waits in its lane was run elsewhere meanwhile, died, was edited and replayed. It runs as edited.
func TestAnEditedMessageRunsAsEdited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := sideBySideConfig(b)
		store := cfg.Parking.(oneCall)
		cfg.Lanes, cfg.Poll, cfg.DeadLetters = 1, 30*time.Second, letters{b}
		s := newService(t, b, catalog(), cfg)
		var ran []string
		cqrs.On(s.p, func(_ context.Context, n note) error {
			if n.Order == "slow" {
				time.Sleep(time.Minute)
				return nil
			}
			ran = append(ran, n.Text)
			return nil
		})
		ctx := context.WithValue(t.Context(), txKey{}, &frame{})
		failures := make([]cqrs.Failure, 10)
		row := &cqrs.Parked{Delay: time.Second, Dead: true, Record: cqrs.Record{
			Group: "shop", ID: "1", Queue: "shop.commands|k", Topic: "shop.commands", Type: "shop.note", Key: "k",
			Payload:  []byte(`{"Order":"k","Text":"wrong"}`),
			Metadata: noteMsg("1", "k", "").Metadata, Failures: failures,
		}}
		if err := store.Append(ctx, []*cqrs.Parked{row}); err != nil { // it is being replayed
			t.Fatal(err)
		}
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("0", "slow", ""))
		time.Sleep(36 * time.Second) // leased here at 30s, when it was polled, until 35s
		got, err := store.Lease(ctx, "shop", 1, 5*time.Second)
		if err != nil || len(got) != 1 {
			t.Fatal(got, err)
		}
		died := *got[0] // another process: a dead letter again, that blocks; what an operator does follows
		died.Attempt, died.Blocked = 5, true
		died.Failures = append(died.Failures[1:len(died.Failures):len(died.Failures)], cqrs.Failure{At: time.Now(), Error: "wrong"})
		edited := died
		edited.Attempt, edited.Blocked, edited.Lease = 0, false, ""
		edited.Payload = []byte(`{"Order":"k","Text":"right"}`)
		if err := errors.Join(store.Reschedule(ctx, []*cqrs.Parked{&died}), store.Reschedule(ctx, []*cqrs.Parked{&edited})); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		s.stop()
		if len(ran) == 0 || ran[len(ran)-1] != "right" { // a run before that is in vain
			t.Errorf("ran %v, and [right] never: the edit is lost", ran)
		}
	})
}

// Two transactions have parked the first two messages of a key at once; the one that is first in the store becomes
// visible when the other is leased already, and in its lane for longer than its lease. What is behind both waits for both.
func TestRule04_AHeadThatComesAfterItsFollower(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := sideBySideConfig(b)
		store := cfg.Parking.(oneCall)
		cfg.Lanes, cfg.Poll, cfg.MaxBatch = 1, 10*time.Second, 4
		s := newService(t, b, catalog(), cfg)
		var ran []string
		failed := false
		cqrs.On(s.p, func(_ context.Context, n note) error {
			if n.Order == "slow" {
				time.Sleep(time.Minute)
				return nil
			}
			ran = append(ran, n.Text)
			if n.Text == "head" && !failed {
				failed = true
				return errors.New("not now")
			}
			return nil
		})
		ctx := context.WithValue(t.Context(), txKey{}, &frame{})
		row := func(id string) *cqrs.Parked {
			return &cqrs.Parked{Record: cqrs.Record{
				Group: "shop", ID: id, Queue: "shop.commands|k", Topic: "shop.commands", Type: "shop.note", Key: "k",
				Payload:  []byte(`{"Order":"k","Text":"` + id + `"}`),
				Metadata: noteMsg(id, "k", "").Metadata,
			}}
		}
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("0", "slow", ""))
		synctest.Wait()
		if err := store.Append(ctx, []*cqrs.Parked{row("f1")}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(12 * time.Second)              // f1 is leased, in its lane
		for _, id := range []string{"x1", "x2"} { // batches of 4: f1 x1 x2 head, f2
			m := noteMsg(id, id, id)
			s.deliver("shop.commands", m)
		}
		synctest.Wait()
		store.mu.Lock()
		b.state.parked = append([]parkedRow{{Parked: *row("head")}}, b.state.parked...)
		store.mu.Unlock()
		if err := store.Append(ctx, []*cqrs.Parked{row("f2")}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		s.stop()
		head, f2 := 0, 0
		for i, id := range ran {
			if id == "head" {
				head = i
			}
			if id == "f2" {
				f2 = i
			}
		}
		if f2 < head {
			t.Errorf("ran %v: f2 before head, which is before it", ran)
		}
	})
}

// slowLease is parking whose answer to Lease may take its time, while what was leased is in the store already.
type slowLease struct {
	oneCall
	slow *atomic.Int64 // a duration
}

func (p slowLease) Lease(ctx context.Context, group string, n int, ttl time.Duration) ([]*cqrs.Parked, error) {
	due, err := p.oneCall.Lease(ctx, group, n, ttl)
	if d := time.Duration(p.slow.Load()); d > 0 {
		time.Sleep(d)
	}
	return due, err
}

// Of two messages of a key that are leased anew, the first is settled in vain before the answer comes, the second after.
// The first comes to its lane at once, the second when it is settled: it still waits for the first.
func TestRule04_WhatIsHandedOutAgainWaitsForWhatWasLeasedWithIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := sideBySideConfig(b)
		store := cfg.Parking.(oneCall)
		slow := &atomic.Int64{}
		cfg.Parking, cfg.Lanes, cfg.MaxBatch, cfg.Poll = slowLease{store, slow}, 1, 4, 10*time.Second
		s := newService(t, b, catalog(), cfg)
		start := time.Now()
		failed := false
		var ran []string
		cqrs.On(s.p, func(_ context.Context, n note) error {
			d, _ := time.ParseDuration(n.Text)
			time.Sleep(d)
			if n.Order != "k" {
				return nil
			}
			ran = append(ran, fmt.Sprint(n.Text, " after ", time.Since(start).Round(time.Second)))
			if n.Text == "head" && !failed && time.Since(start) > 40*time.Second {
				failed = true
				return errors.New("not now")
			}
			return nil
		})
		at := func(d time.Duration, msgs ...*message.Message) {
			time.Sleep(time.Until(start.Add(d)))
			s.deliver("shop.commands", msgs...)
			synctest.Wait()
		}
		park := func(id string) *cqrs.Parked {
			return &cqrs.Parked{Record: cqrs.Record{
				Group: "shop", ID: id, Queue: "shop.commands|k", Topic: "shop.commands", Type: "shop.note", Key: "k",
				Payload: []byte(`{"Order":"k","Text":"` + id + `"}`), Metadata: noteMsg(id, "k", "").Metadata,
			}}
		}
		s.run()
		synctest.Wait()
		at(0, noteMsg("a", "a", "25s"))
		at(time.Second, noteMsg("b1", "b", "0s"), noteMsg("b2", "b", "0s"), noteMsg("b3", "b", "0s"))
		ctx := context.WithValue(t.Context(), txKey{}, &frame{})
		if err := store.Append(ctx, []*cqrs.Parked{park("head"), park("next")}); err != nil {
			t.Fatal(err)
		}
		at(15*time.Second, noteMsg("c1", "c", "10s"), noteMsg("c2", "c", "0s"), noteMsg("c3", "c", "0s"))
		// The lane has a | b1 b2 b3 head | next c1 c2 c3 |
		slow.Store(int64(10 * time.Second)) // from 20 s to 30 s both are leased anew; head is settled in vain at 25 s
		at(28*time.Second, noteMsg("d1", "d", "10s"), noteMsg("d2", "d", "0s"), noteMsg("d3", "d", "0s"))
		// d1 d2 d3 head, this from 30 s on; next is settled in vain after that
		slow.Store(0)
		time.Sleep(10 * time.Minute)
		s.stop()
		if n := len(ran); n < 2 || !strings.HasPrefix(ran[n-1], "next") || !strings.HasPrefix(ran[n-2], "head") || !failed {
			t.Errorf("ran %q, want head again and then next; head failed: %t", ran, failed)
		}
	})
}

// A message that was edited while it was in its lane is to be handed out again under its new lease. That has ended,
// too, and the answer to the next one is on its way when the old run is settled in vain: the message runs under the
// newest alone, and not once more under a lease that is over.
func TestRule04_TheNewestOfSeveralLeasesCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := sideBySideConfig(b)
		store := cfg.Parking.(oneCall)
		slow := &atomic.Int64{}
		cfg.Parking, cfg.Lanes, cfg.MaxBatch, cfg.Poll = slowLease{store, slow}, 1, 2, 10*time.Second
		s := newService(t, b, catalog(), cfg)
		start := time.Now()
		edited := 0
		cqrs.On(s.p, func(_ context.Context, n note) error {
			d, _ := time.ParseDuration(n.Text)
			time.Sleep(d)
			if n.Text == "0m" {
				edited++
			}
			return nil
		})
		at := func(d time.Duration) {
			time.Sleep(time.Until(start.Add(d)))
			synctest.Wait()
		}
		ctx := context.WithValue(t.Context(), txKey{}, &frame{})
		row := &cqrs.Parked{Record: cqrs.Record{
			Group: "shop", ID: "1", Queue: "shop.commands|k", Topic: "shop.commands", Type: "shop.note", Key: "k",
			Payload: []byte(`{"Order":"k","Text":"0s"}`), Metadata: noteMsg("1", "k", "").Metadata,
		}}
		s.run()
		at(time.Second)
		s.deliver("shop.commands", noteMsg("a", "a", "50s"))
		if err := store.Append(ctx, []*cqrs.Parked{row}); err != nil {
			t.Fatal(err)
		}
		at(16 * time.Second) // leased at 10 s, it waits in its lane
		s.deliver("shop.commands", noteMsg("b", "b", "0s"), noteMsg("c", "c", "2s"))
		row.Payload = []byte(`{"Order":"k","Text":"0m"}`)
		if err := store.Reschedule(ctx, []*cqrs.Parked{row}); err != nil {
			t.Fatal(err)
		}
		at(49 * time.Second)
		slow.Store(int64(2 * time.Second)) // of 40 s is the last lease that is known at 51 s, when a ends
		at(54 * time.Second)               // since 52 s that of 50 s is, and at 53 s c has ended
		if left := b.parkedIDs(); edited != 1 || len(left) != 0 {
			t.Errorf("it ran %d times as edited; %v is still parked", edited, left)
		}
		s.stop()
	})
}
