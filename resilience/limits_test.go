package resilience_test

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/resilience"
)

// occupy starts n calls that stay until the returned function is called.
func occupy(t *testing.T, p *resilience.Pipeline, n int) (leave func()) {
	t.Helper()
	gate := make(chan struct{})
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() { _ = resilience.Run(t.Context(), p, func(context.Context) error { <-gate; return nil }) })
	}
	synctest.Wait()
	return func() { close(gate); wg.Wait() }
}

func TestBulkheadRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Bulkhead(2, 0))
		leave := occupy(t, p, 2)
		wantRefusal(t, p, "bulkhead")
		leave()
		if err := resilience.Run(t.Context(), p, succeed); err != nil {
			t.Error(err)
		}
	})
}

func TestBulkheadQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Bulkhead(1, time.Second))
		leave := occupy(t, p, 1)
		began := time.Now()
		queued := make(chan error, 1)
		go func() { queued <- resilience.Run(t.Context(), p, succeed) }()
		synctest.Wait()
		wantRefusal(t, p, "bulkhead") // the queue is as long as the bulkhead is wide
		if time.Since(began) != 0 {
			t.Error("a call that the queue has no room for waited")
		}
		if _, ok := errors.AsType[*resilience.RejectedError](<-queued); !ok || time.Since(began) != time.Second {
			t.Errorf("not refused after the wait but after %v", time.Since(began))
		}
		go func() { queued <- resilience.Run(t.Context(), p, succeed) }()
		synctest.Wait()
		leave()
		if err := <-queued; err != nil {
			t.Errorf("a place came up, and yet: %v", err)
		}
	})
}

func TestBulkheadQueueEndsWithTheCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Bulkhead(1, time.Minute))
		defer occupy(t, p, 1)()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := resilience.Run(ctx, p, succeed)
		if !errors.Is(err, context.DeadlineExceeded) || resilience.OutcomeOf(err) != resilience.NotExecuted {
			t.Errorf("got %v (%v)", err, resilience.OutcomeOf(err))
		}
	})
}

func TestBulkheadFreesThePlaceAfterAPanic(t *testing.T) {
	t.Parallel()
	p := pipeline(t, resilience.Bulkhead(1, 0))
	func() {
		defer func() { _ = recover() }()
		run(t, p, 1, func(context.Context) error { panic("boom") })
	}()
	if err := resilience.Run(t.Context(), p, succeed); err != nil {
		t.Error(err)
	}
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.RateLimit(10, 3))
		for range 3 {
			if err := resilience.Run(t.Context(), p, succeed); err != nil {
				t.Fatal(err)
			}
		}
		wait := wantRefusal(t, p, "rate limit").Wait
		if wait <= 99*time.Millisecond || wait > 100*time.Millisecond {
			t.Errorf("told to wait %v, want 100ms", wait)
		}
		time.Sleep(wait + 1)
		if err := resilience.Run(t.Context(), p, succeed); err != nil {
			t.Errorf("after the wait: %v", err)
		}
	})
}

// A wait that is longer than a time.Duration can tell is told as the longest, not as none.
func TestRateLimitThatTakesForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.RateLimit(1e-12, 1))
		_ = resilience.Run(t.Context(), p, succeed)
		if wait := wantRefusal(t, p, "rate limit").Wait; wait != math.MaxInt64 {
			t.Errorf("told to wait %v", wait)
		}
		wantShed(t, serve(t, p, ok), 429, "9223372037")
	})
}

// server takes ten milliseconds for a call, and longer in proportion to what exceeds its capacity. Every so many calls,
// if that is not 0, it refuses one at once.
type server struct {
	capacity, inFlight, peak, calls int
	refuses                         int
	fails                           bool
}

func (s *server) serve(mu *sync.Mutex) error {
	mu.Lock()
	if s.calls++; s.refuses > 0 && s.calls%s.refuses == 0 {
		mu.Unlock()
		return resilience.WithOutcome(errDown, resilience.Failed)
	}
	s.inFlight++
	s.peak = max(s.peak, s.inFlight)
	took := 10 * time.Millisecond * time.Duration(max(s.inFlight, s.capacity)) / time.Duration(s.capacity)
	mu.Unlock()
	time.Sleep(took)
	mu.Lock()
	s.inFlight--
	mu.Unlock()
	if s.fails {
		return errDown
	}
	return nil
}

// peak lets clients call s for a while and returns the most calls that were in flight during the second half.
func peak(t *testing.T, p *resilience.Pipeline, clients int, s *server) int {
	t.Helper()
	const half = 6 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), 2*half)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for ctx.Err() == nil {
				_ = resilience.Run(ctx, p, func(context.Context) error { return s.serve(&mu) })
				time.Sleep(7 * time.Millisecond)
			}
		})
	}
	time.Sleep(half)
	mu.Lock()
	s.peak = 0
	mu.Unlock()
	wg.Wait()
	return s.peak
}

func TestAdaptiveLimitFindsTheCapacity(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const capacity = 10
		got := peak(t, pipeline(t, resilience.AdaptiveLimit(1, 1000)), 200, &server{capacity: capacity})
		if got < capacity/2 || got > 5*capacity {
			t.Errorf("%d calls at once of 200, want about the capacity of %d", got, capacity)
		}
	})
}

func TestAdaptiveLimitGrowsWhileTheServerIsFast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		got := peak(t, pipeline(t, resilience.AdaptiveLimit(1, 150)), 200, &server{capacity: 10_000})
		if got != 150 {
			t.Errorf("%d calls at once, want the highest limit, 150", got)
		}
	})
}

// What is refused at once says nothing about how long a call takes.
func TestAdaptiveLimitDoesNotMeasureDefiniteFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		got := peak(t, pipeline(t, resilience.AdaptiveLimit(1, 150)), 200, &server{capacity: 10_000, refuses: 100})
		if got != 150 {
			t.Errorf("%d calls at once, want the highest limit, 150", got)
		}
	})
}

func TestAdaptiveLimitShrinksOnFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		got := peak(t, pipeline(t, resilience.AdaptiveLimit(3, 150)), 200, &server{capacity: 10_000, fails: true})
		if got != 3 {
			t.Errorf("%d calls at once, want the lowest limit, 3", got)
		}
	})
}

// A dependency that goes down while its fastest time is measured anew does not keep the limit that it had.
func TestAdaptiveLimitShrinksWhileItProbes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.AdaptiveLimit(1, 20))
		run(t, p, 50*20+1, succeed)
		run(t, p, 200, func(context.Context) error { return errDown })
		defer occupy(t, p, 1)()
		wantRefusal(t, p, "adaptive limit")
	})
}

func TestAdaptiveLimitRefuses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.AdaptiveLimit(2, 2))
		defer occupy(t, p, 2)()
		wantRefusal(t, p, "adaptive limit")
	})
}

func TestAdaptiveThrottleAdmitsInProportionToSuccess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.AdaptiveThrottle(2))
		const calls = 10_000
		ran := 0
		for i := range calls {
			_ = resilience.Run(t.Context(), p, func(context.Context) error {
				ran++
				if i%10 != 0 {
					return errDown
				}
				return nil
			})
		}
		if ran < 5 || ran > calls/20 {
			t.Errorf("%d of %d calls ran while a tenth of them succeeded, want few but some", ran, calls)
		}
		time.Sleep(2*time.Minute + 10*time.Second)
		for range 100 {
			if err := resilience.Run(t.Context(), p, succeed); err != nil {
				t.Fatalf("two minutes later: %v", err)
			}
		}
	})
}

func TestAdaptiveThrottleLetsHalfFail(t *testing.T) {
	t.Parallel()
	p := pipeline(t, resilience.AdaptiveThrottle(2))
	for i := range 1000 {
		err := resilience.Run(t.Context(), p, func(context.Context) error {
			if i%2 == 1 {
				return errDown
			}
			return nil
		})
		if _, ok := errors.AsType[*resilience.RejectedError](err); ok {
			t.Fatalf("call %d was refused", i)
		}
	}
}

func TestAdaptiveThrottleDoesNotCountCancellations(t *testing.T) {
	t.Parallel()
	p := pipeline(t, resilience.AdaptiveThrottle(1))
	for range 1000 {
		err := resilience.Run(t.Context(), p, func(context.Context) error { return context.Canceled })
		if _, ok := errors.AsType[*resilience.RejectedError](err); ok {
			t.Fatal(err)
		}
	}
}
