package cqrs_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// journal notes what handlers saw, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, " ")
}

func TestRule03_LocksAreTheUnionSortedAndBeforeTheHandlers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		cfg := b.config()
		cfg.Lanes = 1
		cfg.Locker = lockerFunc(func(ctx context.Context, names []string) error {
			if !inTx(ctx) {
				t.Error("locks taken outside the transaction")
			}
			j.add("lock(" + strings.Join(names, ",") + ")")
			return nil
		})
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(_ context.Context, n note) error { j.add(n.Text); return nil },
			cqrs.Locks(func(n note) []string { return strings.Split(n.Text, "+") }))
		s.oneBatch("shop.commands", noteMsg("1", "x", "x+b"), noteMsg("2", "y", "c+a"), noteMsg("3", "y", "b"))
		if got, want := j.String(), "lock(a,b,c,x) x+b c+a b"; got != want {
			t.Errorf("journal = %q, want %q", got, want)
		}
	})
}

type lockerFunc func(context.Context, []string) error

func (f lockerFunc) Lock(ctx context.Context, names []string) error { return f(ctx, names) }

// A command that a handler executes under the lock that it holds does not wait for it, in a lane or without one.
func TestRule03_ANestedCommandDoesNotWaitForItsCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		s := newService(t, b, catalog(), cqrs.ProcessorConfig{Subscribe: b.subscriber})
		mine := []string{"sku", "order"} // not to be sorted
		ran := 0
		cqrs.Handle(s.p, func(ctx context.Context, c place) (receipt, error) {
			if c.SKU == "outer" {
				return cqrs.Execute(ctx, s.p, place{SKU: "inner"})
			}
			ran++
			return receipt{}, nil
		}, cqrs.Locks(func(place) []string { return mine }))
		cqrs.On(s.p, func(ctx context.Context, _ note) error {
			_, err := cqrs.Execute(ctx, s.p, place{SKU: "outer"})
			return err
		}, cqrs.Locks(func(note) []string { return mine[1:] }))
		s.run()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := cqrs.Execute(ctx, s.p, place{SKU: "outer"}); err != nil {
			t.Error(err)
		}
		s.deliver("shop.commands", noteMsg("1", "k", ""))
		time.Sleep(time.Minute)
		synctest.Wait()
		if ran != 2 || mine[0] != "sku" {
			t.Errorf("%d ran of 2; locks %q", ran, mine)
		}
	})
}

// What a handler has started may go on after it, with its context: it does not hold the handler's locks then.
func TestRule03_LocksOfAHandlerThatHasReturned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, newDB(), catalog(), cqrs.ProcessorConfig{})
		var inside, most int
		var mu sync.Mutex
		critical := func() {
			mu.Lock()
			inside++
			most = max(most, inside)
			mu.Unlock()
			time.Sleep(time.Minute)
			mu.Lock()
			inside--
			mu.Unlock()
		}
		var background sync.WaitGroup
		cqrs.Handle(s.p, func(ctx context.Context, o place) (receipt, error) {
			if o.SKU == "outer" {
				background.Go(func() {
					time.Sleep(time.Second) // outer has returned, and the lock is free
					_, _ = cqrs.Execute[receipt](context.WithoutCancel(ctx), s.p, place{Order: o.Order, SKU: "inner"})
				})
				return receipt{}, nil
			}
			critical()
			return receipt{}, nil
		}, cqrs.Locks(func(place) []string { return []string{"stock"} }))
		if _, err := cqrs.Execute[receipt](t.Context(), s.p, place{Order: "1", SKU: "outer"}); err != nil {
			t.Fatal(err)
		}
		if _, err := cqrs.Execute[receipt](t.Context(), s.p, place{Order: "2", SKU: "other"}); err != nil {
			t.Fatal(err)
		}
		background.Wait()
		if most > 1 {
			t.Errorf("%d handlers were under the same lock", most)
		}
	})
}

func TestRule03_WithoutALockerLocksHoldInTheProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, newDB(), catalog(), cqrs.ProcessorConfig{})
		busy := 0
		cqrs.Handle(s.p, func(_ context.Context, c place) (receipt, error) {
			if busy++; busy > 1 {
				t.Error("two handlers hold the same lock")
			}
			time.Sleep(time.Second) // virtual
			busy--
			return receipt{c.Order}, nil
		}, cqrs.Locks(func(place) []string { return []string{"sku", "sku"} }))
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { _, _ = cqrs.Execute(t.Context(), s.p, place{Order: "o"}) })
		}
		wg.Wait()
	})
}
