package benchmarks_test

import (
	"context"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/sony/gobreaker"

	"github.com/surge-go/surge/resilience"
)

// Figures move with whatever else the machine does, ratios hardly: both sides are measured in turns, in slices of
// a few milliseconds, and the best slice of each counts, being the one that was disturbed least.
const (
	rounds    = 60
	sliceSize = 5_000
)

// TestPipelineRatios holds the promise that the README makes.
func TestPipelineRatios(t *testing.T) {
	wantRatio(t, "retry, breaker, timeout: surge to failsafe-go", surge(answer), failsafeGo(answer), 0.4)
	wantRatio(t, "the same, waiting: surge to failsafe-go", surge(watch), failsafeGo(watch), 0.75)
	wantRatio(t, "retry, breaker, timeout: surge to by hand", surge(answer), byHand(answer), 0.75)
	wantRatio(t, "the same, waiting: surge to by hand", surge(watch), byHand(watch), 1.25)

	allocs := testing.AllocsPerRun(1000, func() { _, _ = surgeOnce(context.Background()) })
	if allocs > 4 {
		t.Errorf("%v allocations a call, want at most 4", allocs)
	}
}

var surgeOnce = surge(answer)

func TestBreakerRatio(t *testing.T) {
	p := resilience.Must(resilience.New("bench", resilience.NewBreaker(resilience.BreakerConfig{})))
	bare := gobreaker.NewCircuitBreaker(gobreaker.Settings{Interval: 10 * time.Second})
	wantRatio(t, "breaker: surge to gobreaker",
		func(ctx context.Context) (int, error) { return resilience.Do(ctx, p, answer) },
		func(ctx context.Context) (int, error) {
			got, err := bare.Execute(func() (any, error) { return answer(ctx) })
			n, _ := got.(int)
			return n, err
		}, 1.5)
}

func wantRatio(t *testing.T, name string, ours, theirs caller, most float64) {
	t.Helper()
	if testing.Short() {
		t.Skip("a measurement, not for short runs")
	}
	for _, goroutines := range []int{1, 2} {
		a, b := math.Inf(1), math.Inf(1)
		for range rounds {
			a = min(a, slice(t, ours, goroutines))
			b = min(b, slice(t, theirs, goroutines))
		}
		t.Logf("%s, %d goroutines: %.0f / %.0f ns = %.2f", name, goroutines, a, b, a/b)
		if a/b > most {
			t.Errorf("%s, %d goroutines: %.2f, want at most %.2f", name, goroutines, a/b, most)
		}
	}
}

// slice returns the nanoseconds a call, by the clock, of goroutines that share sliceSize calls.
func slice(t *testing.T, call caller, goroutines int) float64 {
	t.Helper()
	began := time.Now()
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range sliceSize / goroutines {
				if got, err := call(context.Background()); got != 42 || err != nil {
					t.Errorf("got %d, %v", got, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(time.Since(began)) / sliceSize
}
