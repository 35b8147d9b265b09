package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

func TestRule06_RunDrainsBeforeItReturns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		s := newService(t, b, catalog(), b.config())
		cqrs.On(s.p, func(ctx context.Context, n note) error {
			time.Sleep(time.Second) // virtual
			if err := ctx.Err(); err != nil {
				return err
			}
			b.add(ctx, "done", 1)
			return nil
		})
		s.run()
		synctest.Wait()
		var all []*message.Message
		for i := range 20 {
			all = append(all, noteMsg(fmt.Sprint(i), fmt.Sprint(i), ""))
		}
		s.deliver("shop.commands", all...)
		time.Sleep(1500 * time.Millisecond)
		s.stop()
		done := 0
		for _, m := range all {
			if acked(t, m) {
				done++
			}
		}
		if done == 0 || done != b.row("done") {
			t.Errorf("%d acknowledged, %d committed", done, b.row("done"))
		}
	})
}

func TestRule06_AMessageWhoseSessionEndedIsNotStarted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		s := newService(t, b, catalog(), b.config())
		cqrs.On(s.p, func(ctx context.Context, _ note) error { b.add(ctx, "ran", 1); return nil })
		s.run()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		m := noteMsg("1", "a", "")
		m.SetContext(ctx)
		s.deliver("shop.commands", m)
		synctest.Wait()
		if b.row("ran") != 0 || acked(t, m) || !nacked(m) {
			t.Errorf("ran %d, acked %v", b.row("ran"), acked(t, m))
		}
	})
}

func TestRule06_PanicsAndGoexitFailTheirMessageAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes = 1
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(ctx context.Context, n note) error {
			b.add(ctx, n.Text, 1)
			switch n.Text {
			case "panic":
				panic("oh")
			case "exit":
				runtime.Goexit()
			}
			return nil
		}, cqrs.SkipDead())
		s.oneBatch("shop.commands", noteMsg("1", "a", "ok"), noteMsg("2", "b", "panic"), noteMsg("3", "c", "exit"),
			noteMsg("4", "d", "ok"))
		if b.row("ok") != 2 || b.row("panic") != 0 || b.row("exit") != 0 {
			t.Errorf("ok %d panic %d exit %d", b.row("ok"), b.row("panic"), b.row("exit"))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		b.read(func(st *tables) {
			for _, id := range []string{"2", "3"} {
				if st.dead[id].state != "dead" {
					t.Errorf("%s is not dead", id)
				}
			}
		})
	})
}

func TestRule06_AGoexitInABatchHandlerIsFoundByRunningAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes = 1
		s := newService(t, b, catalog(), cfg)
		s.p.Consume(func(ctx context.Context, ds []*cqrs.Delivery) error {
			for _, d := range ds {
				if d.Envelope.Key == "exit" {
					runtime.Goexit()
				}
				b.add(ctx, "ok", 1)
			}
			return nil
		}, cqrs.FromTopic("shop.events"))
		var all []*message.Message
		for i, key := range []string{"a", "b", "exit", "c"} {
			all = append(all, msg(fmt.Sprint(i), "shop.placed", key, `{}`))
		}
		s.oneBatch("shop.events", all...)
		if b.row("ok") != 3 {
			t.Errorf("ok = %d, want 3", b.row("ok"))
		}
	})
}

func TestRule06_AHandlerHasADeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.HandlerTimeout = 2 * time.Second
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(ctx context.Context, n note) error {
			<-ctx.Done()
			return ctx.Err()
		})
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("1", "a", ""))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if st := s.p.Stats(); st.Failed == 0 {
			t.Errorf("stats = %+v, want a failure by deadline", st)
		}
		s.stop()
	})
}

func TestCancellationIsNeverAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		s := newService(t, b, catalog(), b.config())
		runs := 0
		cqrs.On(s.p, func(context.Context, note) error {
			if runs++; runs < 20 {
				return fmt.Errorf("query: %w", context.Canceled)
			}
			return nil
		})
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("1", "a", ""))
		time.Sleep(time.Minute)
		synctest.Wait()
		if st := s.p.Stats(); st.Failed != 0 || st.Dead != 0 || st.Handled != 1 {
			t.Errorf("stats = %+v", st)
		}
	})
}

func TestLaterConsumesNoAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		s := newService(t, b, catalog(), b.config())
		start := time.Now()
		var at []time.Duration
		cqrs.On(s.p, func(ctx context.Context, n note) error {
			at = append(at, time.Since(start).Round(time.Second))
			b.add(ctx, "written", 1)
			if len(at) < 8 {
				return cqrs.Later(10*time.Second, errors.New("busy"))
			}
			return nil
		})
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("1", "a", ""))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if len(at) != 8 || at[7] != 70*time.Second || b.row("written") != 1 {
			t.Errorf("ran at %v, wrote %d", at, b.row("written"))
		}
	})
}

type breakerOpenError struct{}

func (breakerOpenError) Error() string             { return "breaker open" }
func (breakerOpenError) RetryAfter() time.Duration { return 30 * time.Second }

func TestRule12_AnOpenBreakerPausesOneTypeAndConsumesNoAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes = 1
		s := newService(t, b, catalog(), cfg)
		var calls atomic.Int64
		var open atomic.Bool
		open.Store(true)
		cqrs.Handle(s.p, func(context.Context, place) (receipt, error) {
			calls.Add(1)
			if open.Load() {
				return receipt{}, fmt.Errorf("charge: %w", breakerOpenError{})
			}
			return receipt{}, nil
		})
		cqrs.On(s.p, func(context.Context, note) error { return nil })
		s.run()
		synctest.Wait()
		for i := range 50 {
			s.deliver("shop.commands", placeMsg(fmt.Sprint("p", i), fmt.Sprint("o", i), "sock"),
				noteMsg(fmt.Sprint("n", i), fmt.Sprint("o", i), ""))
			synctest.Wait()
		}
		if n := calls.Load(); n != 1 {
			t.Errorf("%d calls while the breaker is open, want 1", n)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n := calls.Load(); n > 20 {
			t.Errorf("%d calls in 5 minutes of open breaker", n)
		}
		open.Store(false)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if st := s.p.Stats(); st.Failed != 0 || st.Dead != 0 || st.Handled != 100 {
			t.Errorf("stats = %+v", st)
		}
	})
}

// What an error asks for may come from elsewhere, a header perhaps. It keeps a key, and its type, for an hour at most.
func TestRetryAfterWithoutMeasureHoldsUpNobodyForEver(t *testing.T) {
	t.Parallel()
	for _, parked := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			b := newDB()
			cfg := b.config()
			if !parked {
				cfg.Parking = nil
			}
			s := newService(t, b, catalog(), cfg)
			asked := []time.Duration{math.MaxInt64, 100 * 365 * 24 * time.Hour, math.MinInt64}
			cqrs.On(s.p, func(context.Context, note) error {
				if len(asked) == 0 {
					return nil
				}
				d := asked[0]
				asked = asked[1:]
				return openBreaker{d}
			})
			s.run()
			synctest.Wait()
			s.deliver("shop.commands", noteMsg("1", "a", ""))
			time.Sleep(4 * time.Hour)
			synctest.Wait()
			if st := s.p.Stats(); st.Handled != 1 || st.Failed != 0 {
				t.Errorf("with parking %t: %+v", parked, st)
			}
		})
	}
}

func TestAStoreThatIsAwayCostsNoAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		s := newService(t, b, catalog(), b.config())
		cqrs.On(s.p, func(ctx context.Context, _ note) error { b.add(ctx, "n", 1); return nil })
		s.run()
		synctest.Wait()
		b.mu.Lock()
		b.refuse = func(*tables) error { return errors.New("disk full") }
		b.mu.Unlock()
		m := noteMsg("1", "a", "")
		s.deliver("shop.commands", m)
		time.Sleep(time.Minute)
		if acked(t, m) || nacked(m) {
			t.Fatal("a message that was not committed was given up")
		}
		b.mu.Lock()
		b.refuse = nil
		b.mu.Unlock()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if st := s.p.Stats(); !acked(t, m) || b.row("n") != 1 || st.Failed != 0 {
			t.Errorf("acked %v, n = %d, stats %+v", acked(t, m), b.row("n"), st)
		}
	})
}

func TestWithoutAUnitOfWorkMessagesAreRetriedFromMemoryInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		s := newService(t, b, catalog(), cqrs.ProcessorConfig{Subscribe: b.subscriber, Lanes: 2})
		tries := 0
		cqrs.On(s.p, func(_ context.Context, n note) error {
			if n.Text == "1" {
				if tries++; tries < 8 {
					return errors.New("not yet")
				}
			}
			j.add(n.Order + n.Text)
			return nil
		})
		s.run()
		synctest.Wait()
		all := []*message.Message{noteMsg("1", "a", "1"), noteMsg("2", "a", "2"), noteMsg("3", "b", "2")}
		s.deliver("shop.commands", all...)
		synctest.Wait()
		if acked(t, all[0]) || acked(t, all[1]) || !acked(t, all[2]) {
			t.Error("only what has run may be acknowledged")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if j.String() != "b2 a1 a2" || !acked(t, all[0]) || !acked(t, all[1]) {
			t.Errorf("order = %q", j)
		}
	})
}

func TestHeldMessagesAreGivenBackAtTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		s := newService(t, b, catalog(), cqrs.ProcessorConfig{Subscribe: b.subscriber})
		cqrs.On(s.p, func(context.Context, note) error { return errors.New("no") })
		s.run()
		synctest.Wait()
		m := noteMsg("1", "a", "1")
		s.deliver("shop.commands", m)
		synctest.Wait()
		s.stop()
		if !nacked(m) {
			t.Error("the message is neither done nor given back")
		}
	})
}

func TestPauseStopsATopic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		s := newService(t, b, catalog(), b.config())
		cqrs.On(s.p, func(_ context.Context, n note) error { j.add("note"); return nil })
		cqrs.On(s.p, func(_ context.Context, e placed) error { j.add("placed"); return nil })
		s.run()
		s.p.Pause("shop.commands")
		s.p.Pause("shop.commands")
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("1", "a", ""))
		s.deliver("shop.events", msg("2", "shop.placed", "a", `{}`))
		synctest.Wait()
		if lag, err := s.p.Lag(t.Context()); err != nil || lag["shop.commands"] != 1 {
			t.Errorf("Lag = %v, %v", lag, err)
		}
		if got := j.String(); got != "placed" {
			t.Errorf("while paused ran %q", got)
		}
		s.p.Resume("shop.commands")
		synctest.Wait()
		if got := j.String(); got != "placed note" {
			t.Errorf("after Resume ran %q", got)
		}
	})
}

func TestASubscriptionThatEndsByItselfEndsRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		s := newService(t, b, catalog(), b.config())
		cqrs.On(s.p, func(context.Context, note) error { return nil })
		ended := make(chan error, 1)
		go func() { ended <- s.p.Run(t.Context()) }()
		synctest.Wait()
		b.busMu.Lock()
		for _, ch := range b.subs["shop.commands"] {
			close(ch)
		}
		b.subs = map[string][]chan *message.Message{}
		b.busMu.Unlock()
		synctest.Wait()
		select {
		case err := <-ended:
			if err == nil {
				t.Error("Run = nil, want an error")
			}
		default:
			t.Fatal("Run goes on without its subscription")
		}
	})
}
