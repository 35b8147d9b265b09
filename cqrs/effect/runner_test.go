package effect_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/effect"
)

// refusal is what an open breaker returns.
type refusal struct{ after time.Duration }

func (refusal) Error() string               { return "breaker open" }
func (r refusal) RetryAfter() time.Duration { return r.after }
func (refusal) Unwrap() error               { return cqrs.ErrNotExecuted }

func TestRule12_AnOpenBreakerConsumesNoAttemptAndIsProbed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		start := time.Now()
		w.provider.before = func(int, string) error {
			if time.Since(start) < 5*time.Minute {
				return refusal{10 * time.Second}
			}
			return nil
		}
		h, stop := w.start(effect.Config{Attempts: 2, Concurrency: 8}, w.effect())
		defer stop()
		for i := range 100 {
			w.must(w.send(h, fmt.Sprint(i), 5))
		}
		synctest.Wait()
		first := strings.Count(w.provider.log(), "call")
		if first == 0 || first > 8 {
			t.Errorf("%d calls before the breaker was noticed", first)
		}
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		if probes := strings.Count(w.provider.log(), "call") - first; probes < 20 || probes > 25 {
			t.Errorf("%d probes in 4 minutes, one every 10 s is wanted", probes)
		}
		w.wantState(100, 0)
		time.Sleep(2 * time.Minute)
		w.wantState(0, 0)
		if len(w.replies) != 100 {
			t.Errorf("%d replies", len(w.replies))
		}
	})
}

// One intent that is always turned away must not be the only probe.
func TestRule12_APoisonedProbeDoesNotBlockTheEffect(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.before = func(_ int, key string) error {
			if key == "key-poison" {
				return refusal{time.Second}
			}
			return nil
		}
		h, stop := w.start(effect.Config{Concurrency: 1}, w.effect())
		defer stop()
		w.must(w.send(h, "poison", 5))
		for i := range 10 {
			w.must(w.send(h, fmt.Sprint(i), 5))
		}
		time.Sleep(time.Minute)
		w.wantState(1, 0)
	})
}

func TestRule12_OtherEffectsGoOnWhileOnePauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := effect.NewWith(w.reply, w.store, effect.Config{})
		down, up := w.effect(), w.effect()
		down.Name, up.Name = "down", "up"
		down.Call = func(context.Context, string, charge) (approval, error) { return approval{}, refusal{time.Hour} }
		first, second := effect.Handler(r, down), effect.Handler(r, up)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = r.Run(ctx) })
		synctest.Wait()
		w.must(w.send(first, "1", 5))
		w.must(w.send(second, "2", 5))
		w.wantReply("2", "{ref-key-2} <nil>")
		w.wantState(1, 0)
		cancel()
		running.Wait()
	})
}

func TestConcurrencyIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.takes = time.Second
		h, stop := w.start(effect.Config{Concurrency: 10}, w.effect())
		defer stop()
		for i := range 100 {
			w.must(w.send(h, fmt.Sprint(i), 5))
		}
		time.Sleep(9500 * time.Millisecond)
		w.wantState(10, 0)
		time.Sleep(time.Second)
		w.wantState(0, 0)
		if w.provider.most != 10 {
			t.Errorf("%d calls at once", w.provider.most)
		}
	})
}

func TestBacklogWaitsInTheStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.takes = time.Second
		e := w.effect()
		e.Ask = w.provider.ask // must not be needed: what waited in the store was never called
		h, stop := w.start(effect.Config{Concurrency: 2, Backlog: 3}, e)
		defer stop()
		for i := range 20 {
			w.must(w.send(h, fmt.Sprint(i), 5))
		}
		time.Sleep(30 * time.Second)
		w.wantState(0, 0)
		if calls := w.provider.log(); strings.Count(calls, "call") != 20 || strings.Contains(calls, "ask") {
			t.Errorf("calls %q", calls)
		}
	})
}

func TestRule28_TheProvidersNoIsAppliedAndReplied(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.before = func(int, string) error { return fmt.Errorf("http: %w", cqrs.Reject("declined", nil)) }
		h, stop := w.start(effect.Config{}, w.effect())
		defer stop()
		w.must(w.send(h, "1", 5))
		w.wantReply("1", "<nil> declined")
		w.wantState(0, 0)
		if !slices.Equal(w.applied, []string{"refused 1 declined"}) {
			t.Errorf("applied %q", w.applied)
		}
	})
}

func TestRule28_ARejectionBySettleIsTheReply(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := w.effect()
		e.Settle = func(context.Context, pay, charge, approval) (receipt, error) {
			return receipt{}, cqrs.Reject("late", nil)
		}
		h, stop := w.start(effect.Config{}, e)
		defer stop()
		w.must(w.send(h, "1", 5))
		w.wantReply("1", "<nil> late")
		w.wantState(0, 0)
	})
}

// A result that cannot be applied is applied again, and asked for again when that takes long.
func TestRule28_SettleIsTriedUntilItWorks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := w.effect()
		e.Ask = w.provider.ask
		settle, tries := e.Settle, 0
		e.Settle = func(ctx context.Context, c pay, i charge, o approval) (receipt, error) {
			if tries++; tries < 6 {
				return receipt{}, errors.New("deadlock")
			}
			return settle(ctx, c, i, o)
		}
		h, stop := w.start(effect.Config{}, e)
		defer stop()
		w.must(w.send(h, "1", 5))
		time.Sleep(time.Minute)
		w.wantCalls("call key-1, ask key-1")
		w.wantReply("1", "{ref-key-1} <nil>")
	})
}

func TestPanicsAndGoexitAreInDoubt(t *testing.T) {
	t.Parallel()
	for name, die := range map[string]func(){"panic": func() { panic("boom") }, "goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				e := w.effect()
				call, n := e.Call, 0
				e.Call = func(ctx context.Context, key string, c charge) (approval, error) {
					if n++; n == 1 {
						die()
					}
					return call(ctx, key, c)
				}
				h, stop := w.start(effect.Config{}, e)
				defer stop()
				w.must(w.send(h, "1", 5))
				time.Sleep(time.Second)
				w.wantReply("1", "{ref-key-1} <nil>")
			})
		})
	}
}

// A runner that dies leaves its intents to another one, which waits for the lease and asks first.
// Calls that ignore their deadlines give up their places, as many as there are, and do not keep Run.
func TestRule28_ACallThatDoesNotReturnIsLeftBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := w.effect()
		release, hung := make(chan struct{}), new(atomic.Int32)
		e.Call = func(ctx context.Context, key string, c charge) (approval, error) {
			if key == "key-1" {
				hung.Add(1)
				<-release
			}
			return w.provider.call(context.WithoutCancel(ctx), key, c)
		}
		e.Ask = w.provider.ask
		r := effect.NewWith(w.reply, w.store, effect.Config{Concurrency: 1, Timeout: time.Second})
		h := effect.Handler(r, e)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		synctest.Wait()
		w.must(w.send(h, "1", 5))
		w.must(w.send(h, "2", 5))
		time.Sleep(time.Hour)
		w.wantReply("2", "{ref-key-2} <nil>")
		w.wantState(1, 0)
		if n := hung.Load(); n != 2 {
			t.Errorf("%d calls hang, want one that was left behind and one in its place", n)
		}
		stop()
		time.Sleep(time.Minute)
		select {
		case err := <-ended:
			if !errors.Is(err, effect.ErrHung) {
				t.Errorf("Run = %v", err)
			}
		default:
			t.Error("Run waits for the calls")
		}
		close(release)
		synctest.Wait()
		w.wantState(1, 0) // what they return is ignored
		_, stop = w.start(effect.Config{}, e)
		time.Sleep(time.Hour)
		stop()
		w.wantReply("1", "{ref-key-1} <nil>")
		if got := w.provider.log(); !strings.HasSuffix(got, "ask key-1") {
			t.Errorf("calls %q: it was in doubt and not asked for", got)
		}
	})
}

func TestRule34_AnotherRunnerTakesOverAfterTheLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := w.effect()
		e.Ask = w.provider.ask
		e.Timeout = 10 * time.Second // the first runner's call is over when its lease is
		w.provider.takes = time.Hour
		h, stop := w.start(effect.Config{Lease: 30 * time.Second}, e)
		w.must(w.send(h, "1", 5))
		w.wantCalls("call key-1")
		w.store.mu.Lock()
		for owner := range w.store.owners { // it beats no more, as after a kill
			w.store.owners[owner] = time.Now().Add(30 * time.Second)
		}
		w.store.mu.Unlock()
		w.store.set(nil, errors.New("partitioned"))
		time.Sleep(time.Second)
		w.store.set(errors.New("gone"), nil)
		stop() // its last words do not reach the store
		w.provider.takes = 0
		w.store.set(nil, nil)
		began := time.Now()
		_, stop = w.start(effect.Config{}, e)
		defer stop()
		time.Sleep(time.Minute)
		w.wantCalls("call key-1, ask key-1, call key-1")
		w.wantReply("1", "{ref-key-1} <nil>")
		if waited := time.Since(began); waited < 5*time.Second {
			t.Errorf("taken over after %v", waited)
		}
	})
}

// A runner with a name of its own takes its intents over at once when it starts again.
func TestRule34_ARunnerSucceedsItselfAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := w.effect()
		e.Ask = w.provider.ask
		e.Timeout = time.Second
		w.provider.takes = time.Hour
		h, stop := w.start(effect.Config{Owner: "payments", Lease: time.Hour}, e)
		w.must(w.send(h, "1", 5))
		w.store.set(errors.New("gone"), nil)
		stop()
		w.provider.takes = 0
		w.store.set(nil, nil)
		_, stop = w.start(effect.Config{Owner: "payments"}, e)
		defer stop()
		w.wantCalls("call key-1, ask key-1, call key-1")
		w.wantReply("1", "{ref-key-1} <nil>")
	})
}

// While a runner cannot renew its lease it starts no calls: somebody else may hold its intents.
func TestRule34_NoLeaseNoCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.takes = time.Second
		h, stop := w.start(effect.Config{Concurrency: 1, Lease: 9 * time.Second}, w.effect())
		defer stop()
		w.store.set(nil, errors.New("partitioned"))
		for i := range 50 {
			w.must(w.send(h, fmt.Sprint(i), 5))
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if n := strings.Count(w.provider.log(), "call"); n > 7 {
			t.Errorf("%d calls while the lease was not renewed", n)
		}
		w.store.set(nil, nil)
		time.Sleep(2 * time.Minute)
		w.wantState(0, 0)
		for key, cents := range w.provider.charged {
			if cents != 5 || strings.Count(w.provider.log(), "call "+key+",") > 1 {
				t.Errorf("%s was called more than once", key)
			}
		}
	})
}

func TestRule34_TwoRunnersShareTheWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.takes = 10 * time.Millisecond
		idle := effect.Handler(effect.NewWith(w.reply, w.store, effect.Config{}), w.effect())
		for i := range 300 {
			w.must(w.send(idle, fmt.Sprint(i), 5))
		}
		_, stop := w.start(effect.Config{Backlog: 20}, w.effect())
		_, stop2 := w.start(effect.Config{Backlog: 20}, w.effect())
		defer stop()
		defer stop2()
		time.Sleep(time.Minute)
		w.wantState(0, 0)
		if n := len(w.provider.calls); n != 300 || len(w.replies) != 300 {
			t.Errorf("%d calls, %d replies", n, len(w.replies))
		}
	})
}

func TestStopGivesBackWhatWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.takes = time.Second
		h, stop := w.start(effect.Config{Concurrency: 3}, w.effect())
		for i := range 10 {
			w.must(w.send(h, fmt.Sprint(i), 5))
		}
		synctest.Wait()
		stop()
		w.wantState(7, 0) // the calls under way ended and were settled
		_, stop = w.start(effect.Config{}, w.effect())
		defer stop()
		time.Sleep(2 * time.Second)
		w.wantState(0, 0)
	})
}

func TestRegistrationFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := effect.NewWith(w.reply, w.store, effect.Config{})
	effect.Handler(r, w.effect())
	effect.Handler(r, w.effect())
	effect.Handler(r, effect.Effect[pay, receipt, charge, approval]{Name: "empty", Keep: -1})
	slow := w.effect()
	slow.Name, slow.Timeout = "slow", 11*time.Second
	effect.Handler(r, slow)
	err := r.Run(t.Context())
	for _, want := range []string{
		`"pay" is registered twice`, "Effect.Call is nil", "Effect.Settle is nil", "Keep is -1ns",
		`"slow": Effect.Timeout is 11s, at most a third of Config.Lease, 10s`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Run = %v, want %q", err, want)
		}
	}
}

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	err := effect.Config{Concurrency: -1, Lease: 1, MinBackoff: time.Hour, Poll: -1, Owner: "a#b"}.Validate()
	for _, want := range []string{
		"Concurrency is -1", "Lease is 1ns", "MinBackoff is 1h0m0s", "Poll is -1ns", `Owner is "a#b"`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate = %v, want %q", err, want)
		}
	}
	slow := effect.Config{Timeout: 2 * time.Second, Lease: 5 * time.Second}
	if err := slow.Validate(); err == nil || !strings.Contains(err.Error(), "Timeout is 2s, at most a third of Lease") {
		t.Errorf("Validate = %v", err)
	}
	for _, cfg := range []effect.Config{{}, {Lease: time.Second}, {Timeout: time.Minute, Lease: 3 * time.Minute}} {
		if err := cfg.Validate(); err != nil {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	if _, err := effect.New(nil, nil, effect.Config{}); err == nil {
		t.Error("New(nil, nil) works")
	}
}
