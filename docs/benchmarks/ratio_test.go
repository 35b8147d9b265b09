package benchmarks_test

import (
	"context"
	"fmt"
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

// BenchmarkRatioPipeline has what the README says of retry, breaker and timeout.
func BenchmarkRatioPipeline(b *testing.B) {
	b.Run("answers/failsafe-go", func(b *testing.B) { ratio(b, surge(answer), failsafeGo(answer)) })
	b.Run("answers/by-hand", func(b *testing.B) { ratio(b, surge(answer), byHand(answer)) })
	b.Run("waits/failsafe-go", func(b *testing.B) { ratio(b, surge(watch), failsafeGo(watch)) })
	b.Run("waits/by-hand", func(b *testing.B) { ratio(b, surge(watch), byHand(watch)) })
}

func TestPipelineAllocations(t *testing.T) {
	allocs := testing.AllocsPerRun(1000, func() { _, _ = surgeOnce(context.Background()) })
	if allocs > 4 {
		t.Errorf("%v allocations a call, want at most 4", allocs)
	}
}

var surgeOnce = surge(answer)

// BenchmarkRatioBreaker compares the breaker alone with the one underneath.
func BenchmarkRatioBreaker(b *testing.B) {
	p := resilience.Must(resilience.New("bench", resilience.NewBreaker(resilience.BreakerConfig{})))
	bare := gobreaker.NewCircuitBreaker(gobreaker.Settings{Interval: 10 * time.Second})
	ratio(b,
		func(ctx context.Context) (int, error) { return resilience.Do(ctx, p, answer) },
		func(ctx context.Context) (int, error) {
			got, err := bare.Execute(func() (any, error) { return answer(ctx) })
			n, _ := got.(int)
			return n, err
		})
}

// ratio reports how long ours takes for each time unit of theirs, with one goroutine and with two.
func ratio(b *testing.B, ours, theirs caller) {
	b.Helper()
	for _, goroutines := range []int{1, 2} {
		x, y := math.Inf(1), math.Inf(1)
		for range rounds {
			x = min(x, slice(b, ours, goroutines))
			y = min(y, slice(b, theirs, goroutines))
		}
		b.ReportMetric(x/y, fmt.Sprintf("ratio-%d", goroutines))
	}
}

// slice returns the nanoseconds a call, by the clock, of goroutines that share sliceSize calls.
func slice(tb testing.TB, call caller, goroutines int) float64 {
	tb.Helper()
	began := time.Now()
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range sliceSize / goroutines {
				if got, err := call(context.Background()); got != 42 || err != nil {
					tb.Errorf("got %d, %v", got, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(time.Since(began)) / sliceSize
}
