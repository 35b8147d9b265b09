package benchmarks_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	"github.com/failsafe-go/failsafe-go/timeout"
	"github.com/sony/gobreaker"

	"github.com/surge-go/surge/resilience"
)

// caller runs one function through one library's policies.
type caller func(ctx context.Context) (int, error)

// What is called: a function that answers at once, and one that first asks for its context's end, as
// everything does that waits for a network.
func answer(context.Context) (int, error) { return 42, nil }

func watch(ctx context.Context) (int, error) {
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	default:
		return 42, nil
	}
}

const (
	tries    = 3
	shortest = 100 * time.Millisecond
	longest  = 5 * time.Second
	limit    = 3 * time.Second
	cooldown = 5 * time.Second
)

// surge is retry, breaker and timeout of this project.
func surge(fn func(context.Context) (int, error)) caller {
	p := resilience.Must(resilience.New("bench",
		resilience.Retry(resilience.RetryConfig{Attempts: tries, Min: shortest, Max: longest}),
		resilience.NewBreaker(resilience.BreakerConfig{Cooldown: cooldown}),
		resilience.Timeout(limit),
	))
	return func(ctx context.Context) (int, error) { return resilience.Do(ctx, p, fn) }
}

// failsafeGo is the same with failsafe-go. Its context is set once and not for each call, as a server would
// have to: this is in its favor.
func failsafeGo(fn func(context.Context) (int, error)) caller {
	retry := retrypolicy.NewBuilder[int]().WithMaxAttempts(tries).WithBackoff(shortest, longest).
		WithJitterFactor(.5).Build()
	breaker := circuitbreaker.NewBuilder[int]().WithFailureThresholdRatio(10, 20).WithDelay(cooldown).Build()
	e := failsafe.With(retry, breaker, timeout.New[int](limit)).WithContext(context.Background())
	return func(context.Context) (int, error) {
		return e.GetWithExecution(func(x failsafe.Execution[int]) (int, error) { return fn(x.Context()) })
	}
}

// byHand is the same with backoff, gobreaker and context.WithTimeout, as one writes it.
func byHand(fn func(context.Context) (int, error)) caller {
	breaker := gobreaker.NewCircuitBreaker(gobreaker.Settings{
		Timeout: cooldown, Interval: 10 * time.Second,
		ReadyToTrip: func(n gobreaker.Counts) bool { return n.Requests >= 20 && n.TotalFailures*2 >= n.Requests },
	})
	return func(ctx context.Context) (int, error) {
		wait := backoff.NewExponentialBackOff(backoff.WithInitialInterval(shortest), backoff.WithMaxInterval(longest))
		return backoff.RetryWithData(func() (int, error) {
			got, err := breaker.Execute(func() (any, error) {
				limited, cancel := context.WithTimeout(ctx, limit)
				defer cancel()
				return fn(limited)
			})
			if errors.Is(err, gobreaker.ErrOpenState) {
				return 0, backoff.Permanent(err)
			}
			n, _ := got.(int)
			return n, err
		}, backoff.WithContext(backoff.WithMaxRetries(wait, tries-1), ctx))
	}
}

// BenchmarkPipeline is retry, breaker and timeout around a function that answers at once.
func BenchmarkPipeline(b *testing.B) {
	compare(b, map[string]caller{"surge": surge(answer), "failsafe-go": failsafeGo(answer), "by-hand": byHand(answer)})
}

// BenchmarkPipelineOfWaiting is the same around a function that asks for its context's end.
func BenchmarkPipelineOfWaiting(b *testing.B) {
	compare(b, map[string]caller{"surge": surge(watch), "failsafe-go": failsafeGo(watch), "by-hand": byHand(watch)})
}

// BenchmarkBreaker is the breaker alone.
func BenchmarkBreaker(b *testing.B) {
	p := resilience.Must(resilience.New("bench", resilience.NewBreaker(resilience.BreakerConfig{})))
	bare := gobreaker.NewCircuitBreaker(gobreaker.Settings{Interval: 10 * time.Second})
	other := failsafe.With(circuitbreaker.NewBuilder[int]().WithFailureThresholdRatio(10, 20).Build())
	compare(b, map[string]caller{
		"surge": func(ctx context.Context) (int, error) { return resilience.Do(ctx, p, answer) },
		"gobreaker": func(ctx context.Context) (int, error) {
			got, err := bare.Execute(func() (any, error) { return answer(ctx) })
			n, _ := got.(int)
			return n, err
		},
		"failsafe-go": func(ctx context.Context) (int, error) {
			return other.Get(func() (int, error) { return answer(ctx) })
		},
	})
}

func compare(b *testing.B, callers map[string]caller) {
	b.Helper()
	for _, name := range []string{"surge", "failsafe-go", "gobreaker", "by-hand"} {
		call, ok := callers[name]
		if !ok {
			continue
		}
		b.Run(name+"/serial", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				check(b, call)
			}
		})
		b.Run(name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					check(b, call)
				}
			})
		})
	}
}

func check(b *testing.B, call caller) {
	if got, err := call(context.Background()); got != 42 || err != nil {
		b.Errorf("got %d, %v", got, err)
	}
}
