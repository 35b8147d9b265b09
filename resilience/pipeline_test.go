package resilience_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/surge-go/surge/resilience"
)

func TestNewRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	r := resilience.Retry(resilience.RetryConfig{})
	b := resilience.NewBreaker(resilience.BreakerConfig{})
	f := resilience.Fallback(func(context.Context, error) (int, error) { return 0, nil })
	hedge := resilience.Hedge(time.Second, 2)
	for name, c := range map[string]struct {
		policies []resilience.Policy
		why      string
	}{
		"breaker outside of retry":  {[]resilience.Policy{b, r}, "the breaker is outside of the retry"},
		"throttle outside of retry": {[]resilience.Policy{resilience.AdaptiveThrottle(2), r}, "is outside of the retry"},
		"limit outside of retry":    {[]resilience.Policy{resilience.AdaptiveLimit(1, 9), r}, "is outside of the retry"},
		"retry in retry":            {[]resilience.Policy{r, resilience.Timeout(1), r}, "a retry is inside of a retry"},
		"hedge in hedge":            {[]resilience.Policy{hedge, hedge}, "a hedge is inside of a hedge"},
		"unbudgeted retry in hedge": {
			[]resilience.Policy{hedge, resilience.Retry(resilience.RetryConfig{Budget: -1})}, "without a budget",
		},
		"the same breaker twice": {[]resilience.Policy{b, resilience.Timeout(time.Second), b}, "there twice"},
		"short timeout around retry": {
			[]resilience.Policy{resilience.Timeout(100 * time.Millisecond), r}, "before the first backoff",
		},
		"longer timeout inside": {
			[]resilience.Policy{resilience.Timeout(time.Second), r, resilience.Timeout(time.Second)},
			"can never be reached",
		},
		"long queue": {
			[]resilience.Policy{resilience.Timeout(time.Second), resilience.Bulkhead(1, time.Second)},
			"outlasts the timeout",
		},
		"late hedge":              {[]resilience.Policy{resilience.Timeout(time.Second), hedge}, "is over"},
		"short timeout in hedge":  {[]resilience.Policy{hedge, resilience.Timeout(time.Second)}, "ends each try"},
		"fallback inside retry":   {[]resilience.Policy{r, f}, "would never see a failure"},
		"fallback inside breaker": {[]resilience.Policy{b, f}, "would never see a failure"},

		"nil":               {[]resilience.Policy{nil}, "policy 1 is nil"},
		"timeout of 0":      {[]resilience.Policy{resilience.Timeout(0)}, "must be positive"},
		"bulkhead of 0":     {[]resilience.Policy{resilience.Bulkhead(0, 0)}, "at least one place"},
		"negative wait":     {[]resilience.Policy{resilience.Bulkhead(1, -1)}, "must not be negative"},
		"rate of 0":         {[]resilience.Policy{resilience.RateLimit(0, 1)}, "must be positive"},
		"limits swapped":    {[]resilience.Policy{resilience.AdaptiveLimit(2, 1)}, "lowest"},
		"throttle below 1":  {[]resilience.Policy{resilience.AdaptiveThrottle(0.5)}, "k is 0.5"},
		"hedge of one":      {[]resilience.Policy{resilience.Hedge(1, 1)}, "at least 2"},
		"hedge of many":     {[]resilience.Policy{resilience.Hedge(1, math.MaxInt)}, "at most 100"},
		"nil fallback":      {[]resilience.Policy{resilience.Fallback[int](nil)}, "nil"},
		"nil wrap":          {[]resilience.Policy{resilience.Wrap("mine", nil)}, "mine: the function is nil"},
		"negative attempts": {[]resilience.Policy{resilience.Retry(resilience.RetryConfig{Attempts: -1})}, "Attempts is -1"},
		"min over max": {
			[]resilience.Policy{resilience.Retry(resilience.RetryConfig{Min: 2, Max: 1})}, "Min is 2ns",
		},
		"negative max":  {[]resilience.Policy{resilience.Retry(resilience.RetryConfig{Max: -1})}, "Max is -1ns"},
		"budget over 1": {[]resilience.Policy{resilience.Retry(resilience.RetryConfig{Budget: 2})}, "Budget is 2"},
		"no budget": {
			[]resilience.Policy{resilience.Retry(resilience.RetryConfig{Budget: math.NaN()})}, "Budget is NaN",
		},
		"no ratio": {
			[]resilience.Policy{resilience.NewBreaker(resilience.BreakerConfig{FailureRatio: math.NaN()})},
			"FailureRatio is NaN",
		},
		"unknown jitter": {[]resilience.Policy{resilience.Retry(resilience.RetryConfig{Jitter: 9})}, "Jitter is 9"},
		"breaker that never opens": {
			[]resilience.Policy{resilience.NewBreaker(resilience.BreakerConfig{FailureRatio: -1, Consecutive: -1})},
			"never open",
		},
		"breaker out of range": {
			[]resilience.Policy{resilience.NewBreaker(resilience.BreakerConfig{
				FailureRatio: 2, MinCalls: -1, Window: -1, Cooldown: -1, Probes: -1, ProbeTimeout: -1, SlowAfter: -1,
			})},
			"ProbeTimeout is -1ns",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := resilience.New("p", c.policies...)
			if p != nil || err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("got %v, want an error with %q", err, c.why)
			}
		})
	}
}

func TestNewReportsAllFaults(t *testing.T) {
	t.Parallel()
	_, err := resilience.New("", resilience.Timeout(0), resilience.Bulkhead(0, 0))
	for _, want := range []string{"the name is empty", "timeout 0s", "bulkhead of 0"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}

func TestMust(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	resilience.Must(resilience.New(""))
}

func TestPipelineWithoutPoliciesIsAPlainCall(t *testing.T) {
	t.Parallel()
	p := pipeline(t)
	if got, err := resilience.Do(t.Context(), p, failing(0, nil)); got != 1 || err != nil {
		t.Errorf("got %d, %v", got, err)
	}
	if p.Name() != t.Name() || p.State() != resilience.Closed || p.RetryAfter() != 0 {
		t.Error("not at rest")
	}
}

func TestDoReturnsTheValueThatCameWithTheError(t *testing.T) {
	t.Parallel()
	got, err := resilience.Do(t.Context(), resilience.Standard("s"), func(context.Context) (string, error) {
		return "half", resilience.WithOutcome(errDown, resilience.Failed)
	})
	if got != "half" || !errors.Is(err, errDown) {
		t.Errorf("got %q, %v", got, err)
	}
}

func everything(t *testing.T) *resilience.Pipeline {
	t.Helper()
	return pipeline(t,
		resilience.Fallback(func(_ context.Context, err error) (int, error) { return -1, err }),
		resilience.Timeout(time.Minute),
		resilience.RateLimit(1e6, 1e6),
		resilience.Bulkhead(500, 10*time.Second), // as many may wait
		resilience.Hedge(time.Second, 2),
		resilience.Retry(resilience.RetryConfig{Min: time.Microsecond, Max: time.Millisecond}),
		resilience.AdaptiveThrottle(1000),
		resilience.AdaptiveLimit(1000, 2000),
		resilience.NewBreaker(resilience.BreakerConfig{Consecutive: -1, FailureRatio: 0.9}),
		resilience.Timeout(10*time.Second))
}

// A thousand goroutines go through every policy at once; it is for the race detector, and checks that every call gets
// its own value, its own failure or the refusal of a policy: how many are refused depends on how busy the machine is.
func TestPipelineUnderAThousandGoroutines(t *testing.T) {
	t.Parallel()
	p := everything(t)
	var answered atomic.Int64
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			tries := atomic.Int64{}
			got, err := resilience.Do(t.Context(), p, func(ctx context.Context) (int, error) {
				if tries.Add(1) == 1 && i%10 == 0 {
					return 0, errDown
				}
				return i, ctx.Err()
			})
			switch no := (*resilience.RejectedError)(nil); {
			case err == nil && got != i:
				t.Errorf("call %d got %d", i, got)
			case err == nil:
				answered.Add(1)
			case !errors.As(err, &no) && !errors.Is(err, errDown): // the latter where the budget of retries is spent
				t.Errorf("call %d got %v", i, err)
			}
			_, _ = p.State(), p.RetryAfter()
		})
	}
	wg.Wait()
	if answered.Load() == 0 {
		t.Error("no call was answered")
	}
}

func TestCopyHasTheSamePoliciesAndAStateOfItsOwn(t *testing.T) {
	t.Parallel()
	p := everything(t)
	c := p.Copy("copy")
	if got, want := c.Policies(), p.Policies(); !slices.Equal(got, want) || c.Name() != "copy" {
		t.Errorf("%s has %v, want %v", c.Name(), got, want)
	}
	p.ForceOpen()
	if got, err := resilience.Do(t.Context(), c, failing(0, nil)); got != 1 || err != nil {
		t.Errorf("the copy of a pipeline that was forced open: %d, %v", got, err)
	}
}

// Calls of several types share a pipeline's state and must not get each other's values, also when a policy of
// somebody's own keeps next beyond its call.
func TestPipelineServesSeveralTypes(t *testing.T) {
	t.Parallel()
	var kept []func(context.Context) error
	hoard := resilience.Wrap("hoard", func(ctx context.Context, next func(context.Context) error) error {
		kept = append(kept, next)
		return next(ctx)
	})
	for _, p := range []*resilience.Pipeline{resilience.Standard("s"), pipeline(t, hoard)} {
		for i := range 10 {
			n, err := resilience.Do(t.Context(), p, func(context.Context) (int, error) { return i, nil })
			if n != i || err != nil {
				t.Errorf("got %d, %v", n, err)
			}
			for _, next := range kept {
				_ = next(t.Context())
			}
			s, err := resilience.Do(t.Context(), p, func(context.Context) (string, error) {
				return "s", resilience.WithOutcome(errDown, resilience.Failed)
			})
			if s != "s" || err == nil {
				t.Errorf("got %q, %v", s, err)
			}
		}
	}
}

func TestAllocations(t *testing.T) {
	ctx := context.Background()
	fn := func(context.Context) (int, error) { return 1, nil }
	for name, c := range map[string]struct {
		pipeline *resilience.Pipeline
		most     float64
	}{
		"none":     {resilience.Must(resilience.New("p")), 0},
		"standard": {resilience.Standard("p"), 2}, // the two contexts
		"breaker":  {resilience.Must(resilience.New("p", resilience.NewBreaker(resilience.BreakerConfig{}))), 0},
		"limits": {resilience.Must(resilience.New("p", resilience.RateLimit(1e9, 1e9), resilience.Bulkhead(1, 0),
			resilience.AdaptiveThrottle(2), resilience.AdaptiveLimit(1, 2))), 0},
		"observed by nobody": {resilience.Standard("p").Observe(nil), 2},
	} {
		got := testing.AllocsPerRun(1000, func() { _, _ = resilience.Do(ctx, c.pipeline, fn) })
		if raceDetector {
			c.most++ // under which a sync.Pool drops what it is given now and then
		}
		if got > c.most {
			t.Errorf("%s: %v allocations a call, want at most %v", name, got, c.most)
		}
	}
}
