package resilience_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/resilience"
)

func succeed(context.Context) error { return nil }
func fail(context.Context) error    { return errDown }

// breaker returns a breaker that opens at the first failure, and a pipeline of it.
func breaker(t *testing.T, cfg resilience.BreakerConfig) (*resilience.Breaker, *resilience.Pipeline) {
	t.Helper()
	b := resilience.NewBreaker(cfg)
	return b, pipeline(t, b)
}

func run(t *testing.T, p *resilience.Pipeline, n int, fn func(context.Context) error) {
	t.Helper()
	for range n {
		_ = resilience.Run(t.Context(), p, fn)
	}
}

func wantState(t *testing.T, b *resilience.Breaker, want resilience.State) {
	t.Helper()
	if got := b.State(); got != want {
		t.Fatalf("the breaker is %v, want %v", got, want)
	}
}

// wantRefusal checks that a call is refused without running, and returns the refusal.
func wantRefusal(t *testing.T, p *resilience.Pipeline, policy string) *resilience.RejectedError {
	t.Helper()
	err := resilience.Run(t.Context(), p, func(context.Context) error {
		t.Error("a call ran that should have been refused")
		return nil
	})
	refusal, ok := errors.AsType[*resilience.RejectedError](err)
	if !ok || refusal.Policy != policy || refusal.Pipeline != t.Name() {
		t.Fatalf("got %v, want a refusal by the %s of %s", err, policy, t.Name())
	}
	return refusal
}

func TestBreakerOpensAfterConsecutiveFailures(t *testing.T) {
	t.Parallel()
	b, p := breaker(t, resilience.BreakerConfig{Consecutive: 3})
	run(t, p, 2, fail)
	run(t, p, 1, succeed)
	run(t, p, 2, fail)
	wantState(t, b, resilience.Closed)
	run(t, p, 1, fail)
	wantState(t, b, resilience.Open)
}

func TestBreakerOpensAtAFailureRatio(t *testing.T) {
	t.Parallel()
	b, p := breaker(t, resilience.BreakerConfig{FailureRatio: 0.5, MinCalls: 10, Consecutive: -1})
	run(t, p, 4, fail)
	run(t, p, 5, succeed)
	wantState(t, b, resilience.Closed) // nine calls only
	run(t, p, 1, fail)
	wantState(t, b, resilience.Open)
}

func TestBreakerForgetsAfterItsWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, p := breaker(t, resilience.BreakerConfig{Consecutive: 3, Window: time.Second})
		run(t, p, 2, fail)
		time.Sleep(time.Second + 1)
		run(t, p, 2, fail)
		wantState(t, b, resilience.Closed)
	})
}

// gobreaker v1 counts a call in the window in which it began, so calls longer than the window never count.
func TestBreakerCountsCallsThatOutlastItsWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, p := breaker(t, resilience.BreakerConfig{Consecutive: 3, Window: time.Second})
		done := make(chan struct{})
		for range 3 {
			go func() {
				run(t, p, 1, func(context.Context) error { time.Sleep(time.Minute); return errDown })
				done <- struct{}{}
			}()
		}
		for range 3 {
			<-done
		}
		wantState(t, b, resilience.Open)
	})
}

func TestBreakerCountsSlowCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, p := breaker(t, resilience.BreakerConfig{Consecutive: 1, SlowAfter: time.Second})
		run(t, p, 1, func(context.Context) error { time.Sleep(time.Second); return nil })
		wantState(t, b, resilience.Closed)
		run(t, p, 1, func(context.Context) error { time.Sleep(time.Second + 1); return nil })
		wantState(t, b, resilience.Open)
	})
}

func TestBreakerDoesNotCount(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"cancellations":    context.Canceled,
		"definite answers": resilience.WithOutcome(errDown, resilience.Failed),
		"refusals":         &resilience.RejectedError{Policy: "bulkhead"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, p := breaker(t, resilience.BreakerConfig{Consecutive: 1, FailureRatio: 0.01, MinCalls: 1})
			run(t, p, 50, func(context.Context) error { return err })
			wantState(t, b, resilience.Closed)
		})
	}
}

// A client that goes away makes calls fail with all kinds of errors, and trips gobreaker v1.
func TestBreakerDoesNotCountErrorsOfCancelledCalls(t *testing.T) {
	t.Parallel()
	b, p := breaker(t, resilience.BreakerConfig{Consecutive: 1})
	ctx, cancel := context.WithCancel(t.Context())
	_ = resilience.Run(ctx, p, func(context.Context) error { cancel(); return errDown })
	wantState(t, b, resilience.Closed)
}

func TestBreakerCountsPanics(t *testing.T) {
	t.Parallel()
	b, p := breaker(t, resilience.BreakerConfig{Consecutive: 1})
	func() {
		defer func() {
			if recover() != "boom" {
				t.Error("the panic did not reach the caller")
			}
		}()
		run(t, p, 1, func(context.Context) error { panic("boom") })
	}()
	wantState(t, b, resilience.Open)
}

func TestBreakerRecoversByAProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, p := breaker(t, resilience.BreakerConfig{Consecutive: 1, Cooldown: 5 * time.Second})
		run(t, p, 1, fail)
		time.Sleep(2 * time.Second)
		if refusal := wantRefusal(t, p, "breaker"); refusal.Wait != 3*time.Second ||
			refusal.RetryAfter() != refusal.Wait || b.RetryAfter() != refusal.Wait {
			t.Errorf("told to wait %v, want 3s", refusal.Wait)
		}
		time.Sleep(3 * time.Second)
		wantState(t, b, resilience.HalfOpen)
		run(t, p, 1, fail)
		wantState(t, b, resilience.Open)
		time.Sleep(5 * time.Second)
		run(t, p, 1, succeed)
		wantState(t, b, resilience.Closed)
	})
}

func TestBreakerLimitsItsProbes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, p := breaker(t, resilience.BreakerConfig{Consecutive: 1, Cooldown: time.Second, Probes: 2})
		run(t, p, 1, fail)
		time.Sleep(time.Second)
		release := make(chan struct{})
		for range 2 {
			go run(t, p, 1, func(context.Context) error { <-release; return nil })
		}
		synctest.Wait()
		if wait := wantRefusal(t, p, "breaker").Wait; wait != 250*time.Millisecond || b.RetryAfter() != wait {
			t.Errorf("told to wait %v, want a quarter of the cooldown", wait)
		}
		release <- struct{}{}
		synctest.Wait()
		wantState(t, b, resilience.HalfOpen)
		wantRefusal(t, p, "breaker") // one has succeeded and one is under way: two in all
		release <- struct{}{}
		synctest.Wait()
		wantState(t, b, resilience.Closed)
	})
}

// A probe that hangs locks gobreaker v1 half-open for ever.
func TestBreakerGivesUpAHungProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, p := breaker(t, resilience.BreakerConfig{
			Consecutive: 1, Cooldown: time.Second, ProbeTimeout: 3 * time.Second,
		})
		run(t, p, 1, fail)
		time.Sleep(time.Second)
		release := make(chan struct{})
		go run(t, p, 1, func(context.Context) error { <-release; return nil })
		time.Sleep(3 * time.Second)
		wantState(t, b, resilience.Open)
		time.Sleep(time.Second)
		wantState(t, b, resilience.HalfOpen)
		run(t, p, 1, succeed)
		wantState(t, b, resilience.Closed)
		run(t, p, 1, fail)
		close(release) // the hung probe's success comes back late and must not close the breaker
		synctest.Wait()
		wantState(t, b, resilience.Open)
	})
}

// The cooldown after a hung probe begins when it was given up, whenever somebody notices.
func TestBreakerGivesUpAHungProbeOnTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, p := breaker(t, resilience.BreakerConfig{
			Consecutive: 1, Cooldown: time.Second, ProbeTimeout: 3 * time.Second,
		})
		run(t, p, 1, fail)
		time.Sleep(time.Second)
		release := make(chan struct{})
		defer close(release)
		go run(t, p, 1, func(context.Context) error { <-release; return nil })
		time.Sleep(time.Hour)
		if err := resilience.Run(t.Context(), p, succeed); err != nil {
			t.Errorf("an hour later: %v", err)
		}
	})
}

// A probe whose goroutine exits locks gobreaker v1 half-open for ever.
func TestBreakerSurvivesAProbeThatExits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, p := breaker(t, resilience.BreakerConfig{Consecutive: 1, Cooldown: time.Second})
		run(t, p, 1, fail)
		time.Sleep(time.Second)
		go run(t, p, 1, func(context.Context) error { runtime.Goexit(); return nil })
		synctest.Wait()
		wantState(t, b, resilience.Open)
		time.Sleep(time.Second)
		run(t, p, 1, succeed)
		wantState(t, b, resilience.Closed)
	})
}

func TestBreakerFreesThePlaceOfACancelledProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, p := breaker(t, resilience.BreakerConfig{Consecutive: 1, Cooldown: time.Second})
		run(t, p, 1, fail)
		time.Sleep(time.Second)
		run(t, p, 1, func(context.Context) error { return context.Canceled })
		wantState(t, b, resilience.HalfOpen)
		run(t, p, 1, succeed)
		wantState(t, b, resilience.Closed)
	})
}

// A call of gobreaker v1's Counts or State in its OnStateChange deadlocks.
func TestBreakerListenerMayCallTheBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, p := breaker(t, resilience.BreakerConfig{Consecutive: 1})
		type step struct{ from, to resilience.State }
		var steps []step
		b.OnTransition(func(from, to resilience.State) {
			steps = append(steps, step{from, to})
			_ = b.State()
			if to == resilience.Open && len(steps) < 3 {
				b.Reset()
				_ = resilience.Run(context.Background(), p, fail)
			}
		})
		run(t, p, 1, fail)
		open, closed := step{resilience.Closed, resilience.Open}, step{resilience.Open, resilience.Closed}
		if want := []step{open, closed, open}; !slices.Equal(steps, want) {
			t.Errorf("transitions %v, want %v", steps, want)
		}
	})
}

func TestBreakerListenerThatPanicsDoesNotSilenceTheOthers(t *testing.T) {
	t.Parallel()
	b, p := breaker(t, resilience.BreakerConfig{Consecutive: 1})
	heard := 0
	b.OnTransition(func(_, _ resilience.State) {
		if heard++; heard == 1 {
			panic("listener")
		}
	})
	func() {
		defer func() { _ = recover() }()
		run(t, p, 1, fail)
	}()
	b.Reset()
	if heard != 2 {
		t.Errorf("heard %d transitions, want 2", heard)
	}
}

func TestBreakerForced(t *testing.T) {
	t.Parallel()
	b, p := breaker(t, resilience.BreakerConfig{Consecutive: 1, Cooldown: time.Minute})
	b.ForceOpen()
	wantState(t, b, resilience.Open)
	if wait := wantRefusal(t, p, "breaker").Wait; wait != time.Minute || b.RetryAfter() != wait {
		t.Errorf("told to wait %v, want the cooldown", wait)
	}
	b.ForceClosed()
	run(t, p, 100, fail)
	wantState(t, b, resilience.Closed)
	if !b.Forced() {
		t.Error("not forced")
	}
	b.Reset()
	if b.Forced() {
		t.Error("still forced")
	}
	run(t, p, 1, fail)
	wantState(t, b, resilience.Open)
	b.Reset()
	wantState(t, b, resilience.Closed)
	run(t, p, 1, succeed)
}

func TestBreakerIgnoresCallsFromBeforeAReset(t *testing.T) {
	t.Parallel()
	b, p := breaker(t, resilience.BreakerConfig{Consecutive: 1})
	run(t, p, 1, func(context.Context) error { b.Reset(); return errDown })
	wantState(t, b, resilience.Closed)
}

func TestBreakerSharedByPipelines(t *testing.T) {
	t.Parallel()
	b := resilience.NewBreaker(resilience.BreakerConfig{Consecutive: 1})
	one := resilience.Must(resilience.New("one", b))
	two := resilience.Must(resilience.New("two", b))
	run(t, one, 1, fail)
	if two.State() != resilience.Open || two.RetryAfter() == 0 {
		t.Errorf("two is %v", two.State())
	}
	if fresh := two.Copy("three"); fresh.State() != resilience.Closed {
		t.Error("a copy shares the state")
	}
}
