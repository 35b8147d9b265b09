package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// Two messages of a key are leased together but run in two batches, and the first fails again.
func TestRule04_WhatIsLeasedBehindAFailureDoesNotOvertakeIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		hold := make(chan struct{})
		c := cqrs.NewCatalog(cqrs.Command[note]{
			Name: "shop.note", Key: func(n note) string { return n.Order },
			Validate: func(n note) error {
				if n.Text == "hold the lane" {
					<-hold
				}
				return nil
			},
		})
		cfg := b.config()
		cfg.Lanes, cfg.MaxBatch = 1, 2
		s := newService(t, b, c, cfg)
		var tries atomic.Int64
		cqrs.On(s.p, func(_ context.Context, n note) error {
			if n.Text == "1" && tries.Add(1) < 4 {
				return errors.New("not yet")
			}
			j.add(n.Order + n.Text)
			return nil
		})
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("1", "a", "1"), noteMsg("2", "a", "2"))
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("3", "b", "hold the lane"))
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("4", "c", "fill"))
		synctest.Wait()
		time.Sleep(time.Second) // the leased messages come behind the last one, the second into a batch of its own
		close(hold)
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := j.String(); got != "bhold the lane cfill a1 a2" {
			t.Errorf("order = %q", got)
		}
	})
}

func TestHeldMessagesAreNotClaimed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Parking, cfg.DeadLetters = nil, nil
		s := newService(t, b, catalog(), cfg)
		tries := 0
		cqrs.On(s.p, func(ctx context.Context, n note) error {
			if tries++; tries < 3 {
				return errors.New("not yet")
			}
			b.add(ctx, "done", 1)
			return nil
		})
		s.run()
		synctest.Wait()
		m := noteMsg("1", "a", "")
		s.deliver("shop.commands", m)
		time.Sleep(time.Minute)
		synctest.Wait()
		if b.row("done") != 1 || !acked(t, m) || s.p.Stats().Duplicates != 0 {
			t.Errorf("done %d, acked %v, stats %+v", b.row("done"), acked(t, m), s.p.Stats())
		}
	})
}

func TestHeldQueuesLongerThanABatchKeepTheirOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		s := newService(t, b, catalog(), cqrs.ProcessorConfig{Subscribe: b.subscriber, Lanes: 1, MaxBatch: 2})
		tries := 0
		cqrs.On(s.p, func(_ context.Context, n note) error {
			if n.Text == "1" {
				if tries++; tries < 4 {
					return errors.New("not yet")
				}
			}
			j.add(n.Text)
			return nil
		})
		s.run()
		synctest.Wait()
		for i := 1; i <= 6; i++ {
			s.deliver("shop.commands", noteMsg(fmt.Sprint(i), "a", fmt.Sprint(i)))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := j.String(); got != "1 2 3 4 5 6" {
			t.Errorf("order = %q", got)
		}
	})
}

// An event with a one-message handler and a consumer: what the first refuses is undone, and the others go on.
func TestAnEventWithBothKindsOfHandlers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		b.reruns = 1
		cfg := b.config()
		cfg.Lanes = 1
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(ctx context.Context, e placed) error {
			b.add(ctx, "one", 1)
			if e.Order == "refused" {
				return cqrs.Reject("no", nil)
			}
			return nil
		})
		s.p.Consume(func(ctx context.Context, ds []*cqrs.Delivery) error {
			b.add(ctx, "many", len(ds))
			for _, d := range ds {
				if d.Err != nil {
					b.add(ctx, "many", -1)
				}
			}
			return nil
		}, cqrs.FromTypes("shop.placed"))
		s.oneBatch("shop.events",
			msg("1", "shop.placed", "a", `{"Order":"a"}`),
			msg("2", "shop.placed", "b", `{"Order":"refused"}`),
			msg("3", "shop.placed", "c", `{"Order":"c"}`))
		if b.row("one") != 2 || b.row("many") != 2 {
			t.Errorf("one %d, many %d; want 2 and 2", b.row("one"), b.row("many"))
		}
		b.read(func(st *tables) {
			if st.dead["2"].state != "dead" || len(st.dead) != 1 {
				t.Errorf("dead letters = %v", st.dead)
			}
		})
	})
}

// A process that dies with leased messages must not hold them up for long.
func TestRule04_ALeaseFollowsHowLongHandlersTake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		ttls := &leases{parking: parking{b}}
		cfg.Parking, cfg.HandlerTimeout = ttls, 30*time.Second
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(ctx context.Context, n note) error {
			if n.Text == "slow" {
				time.Sleep(6 * time.Second) // virtual
			}
			return nil
		})
		s.run()
		synctest.Wait()
		if got := ttls.last.Load(); got != int64(5*time.Second) {
			t.Errorf("first lease = %v", time.Duration(got))
		}
		s.deliver("shop.commands", noteMsg("1", "a", "slow"))
		time.Sleep(10 * time.Second)
		if got := ttls.last.Load(); got != int64(42*time.Second) {
			t.Errorf("lease = %v, want seven times the slowest transaction", time.Duration(got))
		}
	})
}

// A transaction of many slow handlers takes longer than one handler may. If leases were shorter, two processes would
// take the messages from each other for ever.
func TestRule04_ALeaseOutlastsATransactionOfSlowHandlers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		ttls := &leases{parking: parking{b}}
		cfg.Parking, cfg.Lanes, cfg.HandlerTimeout = ttls, 1, 4*time.Second
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(context.Context, note) error { time.Sleep(3 * time.Second); return nil })
		var all []*message.Message
		for i := range 10 {
			all = append(all, noteMsg(fmt.Sprint(i), fmt.Sprint(i), "slow"))
		}
		s.oneBatch("shop.commands", all...)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := time.Duration(ttls.last.Load()); got < 30*time.Second {
			t.Errorf("lease = %v after a transaction of ten handlers that take 3 s each", got)
		}
	})
}

type leases struct {
	parking
	last atomic.Int64
}

func (l *leases) Lease(ctx context.Context, group string, n int, ttl time.Duration) ([]*cqrs.Parked, error) {
	l.last.Store(int64(ttl))
	return l.parking.Lease(ctx, group, n, ttl)
}
