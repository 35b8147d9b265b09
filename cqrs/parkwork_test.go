package cqrs_test

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// sideBySide lets lanes work at the same time, for handlers that write nothing.
type sideBySide struct{}

func (sideBySide) Do(ctx context.Context, fn func(context.Context) error) error {
	return fn(context.WithValue(context.WithoutCancel(ctx), txKey{}, &frame{}))
}

// oneCall is parking whose calls come one at a time, whoever makes them.
type oneCall struct {
	mu *sync.Mutex
	parking
}

func (p oneCall) Parked(ctx context.Context, group string, queues []string) ([]bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.parking.Parked(ctx, group, queues)
}

func (p oneCall) Append(ctx context.Context, ms []*cqrs.Parked) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.parking.Append(ctx, ms)
}

func (p oneCall) Lease(ctx context.Context, group string, n int, ttl time.Duration) ([]*cqrs.Parked, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.parking.Lease(ctx, group, n, ttl)
}

func (p oneCall) Reschedule(ctx context.Context, ms []*cqrs.Parked) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.parking.Reschedule(ctx, ms)
}

func (p oneCall) Consume(ctx context.Context, ms []*cqrs.Parked) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.parking.Consume(ctx, ms)
}

func sideBySideConfig(b *db) cqrs.ProcessorConfig {
	return cqrs.ProcessorConfig{
		Subscribe: b.subscriber, UnitOfWork: sideBySide{}, InTransaction: inTx, HandlerTimeout: time.Hour,
		Parking: oneCall{mu: &sync.Mutex{}, parking: parking{b}},
	}
}

// later postpones each note once, for as long as its text says.
func later(tried *sync.Map, n note) error {
	if _, again := tried.LoadOrStore(n.Order, true); again {
		return nil
	}
	d, err := time.ParseDuration(n.Text)
	return cqrs.Later(d, errors.Join(err, errors.New("not now")))
}

// A parked message that runs for long does not keep those of other lanes from running.
func TestRule04_ASlowParkedMessageHoldsUpItsLaneAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := sideBySideConfig(b)
		cfg.Lanes = 64
		s := newService(t, b, catalog(), cfg)
		var tried, done sync.Map
		cqrs.On(s.p, func(_ context.Context, n note) error {
			if err := later(&tried, n); err != nil {
				return err
			}
			if n.Order == "slow" {
				time.Sleep(30 * time.Minute)
			}
			done.Store(n.Order, true)
			return nil
		})
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("1", "slow", "1s"))
		for _, k := range []string{"a", "b", "c", "d", "e", "f"} { // it shares its lane with few of them at most
			s.deliver("shop.commands", noteMsg(k, k, "5s"))
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		ran := 0
		done.Range(func(any, any) bool { ran++; return true })
		if ran < 3 {
			t.Errorf("%d of 6 other keys, due after 5s, have run within 10 minutes", ran)
		}
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if _, ok := done.Load("slow"); !ok || len(b.state.parked) > 0 {
			t.Errorf("the slow one has run: %t; %d messages are still parked", ok, len(b.state.parked))
		}
	})
}

// A message whose lease ends while it waits in its lane is leased again, but does not come to its lane again: it runs
// under the new lease.
func TestALeasedMessageIsInItsLaneOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := sideBySideConfig(b)
		cfg.Lanes = 1
		s := newService(t, b, catalog(), cfg)
		var tried sync.Map
		runs := 0
		cqrs.On(s.p, func(_ context.Context, n note) error {
			if n.Order == "slow" {
				time.Sleep(time.Minute)
				return nil
			}
			runs++
			return later(&tried, n)
		})
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("1", "k", "1s"))
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("2", "slow", ""))
		time.Sleep(10 * time.Minute)
		s.stop()
		if runs != 2 || len(b.state.parked) > 0 {
			t.Errorf("%d runs, want 2: postponed, and handled; %d messages are still parked", runs, len(b.state.parked))
		}
	})
}

// Each parked message runs when it is due, also if others are due before it; Poll is for those of other processes.
func TestRule04_EachParkedMessageRunsWhenItIsDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes, cfg.Poll = 1, time.Hour
		s := newService(t, b, catalog(), cfg)
		var tried sync.Map
		cqrs.On(s.p, func(ctx context.Context, n note) error {
			err := later(&tried, n)
			if err == nil {
				b.add(ctx, n.Order, 1)
			}
			return err
		})
		s.oneBatch("shop.commands", noteMsg("2", "b", "3s"), noteMsg("1", "a", "1s"), noteMsg("3", "c", "2s"))
		time.Sleep(4 * time.Second)
		synctest.Wait()
		for _, key := range []string{"a", "b", "c"} {
			if b.row(key) != 1 {
				t.Errorf("%s was due within 3 s and has not run after 4", key)
			}
		}
	})
}

// The lease is a time to come whatever the handlers are allowed.
func TestALeaseIsAsLongAsHandlersMayTake(t *testing.T) {
	t.Parallel()
	for _, timeout := range []time.Duration{time.Minute, 300 * 24 * time.Hour, math.MaxInt64} {
		synctest.Test(t, func(t *testing.T) {
			b := newDB()
			cfg := b.config()
			leases := leasing{parking{b}, new(time.Duration)}
			cfg.Parking, cfg.HandlerTimeout = leases, timeout
			s := newService(t, b, catalog(), cfg)
			cqrs.On(s.p, func(context.Context, note) error { time.Sleep(30 * time.Second); return nil })
			s.run()
			synctest.Wait()
			s.deliver("shop.commands", noteMsg("1", "k", "1"))
			time.Sleep(time.Minute)
			synctest.Wait()
			if *leases.ttl < 30*time.Second {
				t.Errorf("handlers may take %s, and one took 30s: leased for %s", timeout, *leases.ttl)
			}
		})
	}
}
