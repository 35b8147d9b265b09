package resilience

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// RetryConfig configures [Retry]; the zero value works.
type RetryConfig struct {
	// Attempts is how often the function may run in all, the first time included. 0 means 3.
	Attempts int
	// Min and Max bound the waits. 0 means 100 ms and 5 s. What Min means depends on Jitter.
	Min, Max time.Duration
	// Jitter is how waits are spread. The zero value is FullJitter.
	Jitter Jitter
	// Budget is how many retries one call earns, on average: 0.2 lets retries add a fifth to the traffic at
	// most, whatever fails. It is a token bucket that every call of the pipeline shares, with a reserve of 10
	// retries. At most 1; 0 means 0.2; negative means no limit, which can turn a brief fault into an outage.
	Budget float64
	// RetryAfterMax is the longest wait that an error may ask for with a method RetryAfter() time.Duration,
	// as an HTTP answer does with Retry-After. An error that asks for more ends the retrying: to come back
	// earlier would be wrong, to wait that long too. 0 means 30 s, negative ignores what errors ask for.
	RetryAfterMax time.Duration
	// RetryIf reports whether to try again after an error. Nil means IsRetryable. It is not asked once the
	// caller's context has ended.
	RetryIf func(error) bool
}

// Jitter is how [Retry] spreads its waits, so that callers which failed together do not return together.
// Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
type Jitter int

const (
	// FullJitter waits for a random time between 0 and a ceiling that starts at Min and doubles up to Max.
	FullJitter Jitter = iota
	// DecorrelatedJitter waits for a random time between Min and three times the wait before, up to Max.
	DecorrelatedJitter
)

func (c RetryConfig) withDefaults() RetryConfig {
	if c.Attempts == 0 {
		c.Attempts = 3
	}
	if c.Min == 0 {
		c.Min = min(100*time.Millisecond, cmp.Or(c.Max, 100*time.Millisecond))
	}
	if c.Max == 0 {
		c.Max = max(5*time.Second, c.Min)
	}
	if c.Budget == 0 {
		c.Budget = 0.2
	}
	if c.RetryAfterMax == 0 {
		c.RetryAfterMax = 30 * time.Second
	}
	if c.RetryIf == nil {
		c.RetryIf = IsRetryable
	}
	return c
}

// Validate reports every field that is out of range, joined. [New] calls it.
func (c RetryConfig) Validate() error {
	c = c.withDefaults()
	var faults []error
	if c.Attempts < 1 {
		faults = append(faults, fmt.Errorf("field Attempts is %d, must be at least 1", c.Attempts))
	}
	if c.Max < 0 {
		faults = append(faults, fmt.Errorf("field Max is %v, must not be negative", c.Max))
	} else if c.Min < 0 || c.Min > c.Max {
		faults = append(faults, fmt.Errorf("field Min is %v, must be between 0 and Max (%v)", c.Min, c.Max))
	}
	if c.Jitter != FullJitter && c.Jitter != DecorrelatedJitter {
		faults = append(faults, fmt.Errorf("field Jitter is %d, must be FullJitter or DecorrelatedJitter", c.Jitter))
	}
	if !(c.Budget <= 1) { // NaN is out of range too
		faults = append(faults, fmt.Errorf("field Budget is %v retries a call, must be at most 1", c.Budget))
	}
	return errors.Join(faults...)
}

// Retry runs the layers inside again when they fail, up to cfg.Attempts times, with waits in between.
//
// It never sleeps towards a deadline that the next try would miss: it returns at once instead. The error of
// every try is kept, in a [*RetryError], as soon as there was more than one or the retrying was cut short.
// [Attempt] tells the function which try it is. Use it only for what is safe to repeat.
func Retry(cfg RetryConfig) Policy {
	filled := cfg.withDefaults()
	return &retry{cfg: filled, budget: newBudget(filled.Budget)}
}

type retry struct {
	cfg    RetryConfig
	budget *budget
}

func (r *retry) describe() string { return fmt.Sprintf("retry up to %d tries", r.cfg.Attempts) }
func (r *retry) fresh() Policy    { return Retry(r.cfg) }
func (r *retry) check() error     { return r.cfg.Validate() }

func (r *retry) run(ctx context.Context, c *call, i int) error {
	r.budget.deposit()
	err := c.next(withAttempt(ctx, 1), i)
	if err == nil || c.once || r.cfg.Attempts == 1 || !r.again(ctx, err) {
		return err
	}
	return r.repeat(ctx, c, i, err)
}

func (r *retry) again(ctx context.Context, err error) bool {
	return ctx.Err() == nil && r.cfg.RetryIf(err)
}

// repeat makes the tries from the second on.
func (r *retry) repeat(ctx context.Context, c *call, i int, err error) error {
	failed := &RetryError{Errs: []error{err}}
	waits := r.waits()
	for n := 2; n <= r.cfg.Attempts; n++ {
		wait, stopped := r.plan(ctx, waits.NextBackOff(), err)
		if stopped != "" {
			failed.Stopped = stopped
			return failed
		}
		c.leaf.reset()
		if err := sleep(ctx, wait); err != nil {
			failed.Errs = append(failed.Errs, WithOutcome(err, NotExecuted))
			failed.Stopped = "the caller has gone"
			return failed
		}
		err = c.next(withAttempt(ctx, n), i)
		if err == nil {
			return nil
		}
		failed.Errs = append(failed.Errs, err)
		if !r.again(ctx, err) {
			failed.Stopped = "not retryable"
			return failed
		}
	}
	failed.Stopped = "no tries left"
	return failed
}

// plan returns how long to wait after err, or why there is no point in it.
func (r *retry) plan(ctx context.Context, wait time.Duration, err error) (_ time.Duration, stopped string) {
	asked, ok := errors.AsType[interface {
		error
		RetryAfter() time.Duration
	}](err)
	if ok && r.cfg.RetryAfterMax > 0 {
		if asked.RetryAfter() > r.cfg.RetryAfterMax {
			return 0, fmt.Sprintf("asked to wait %v", asked.RetryAfter())
		}
		wait = max(wait, asked.RetryAfter())
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Add(wait).Before(deadline) {
		return 0, "the next try would miss the deadline"
	}
	if !r.budget.withdraw() {
		return 0, "the retry budget is spent"
	}
	return wait, ""
}

// waits makes the sequence of waits of one call.
func (r *retry) waits() backoff.BackOff {
	if r.cfg.Jitter == DecorrelatedJitter {
		return &decorrelated{min: r.cfg.Min, max: r.cfg.Max, last: r.cfg.Min}
	}
	// A factor of 1 spreads from 0 to twice the interval, so half of the ceiling is the interval.
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(r.cfg.Min/2),
		backoff.WithMaxInterval(r.cfg.Max/2),
		backoff.WithRandomizationFactor(1),
		backoff.WithMultiplier(2),
		backoff.WithMaxElapsedTime(0),
	)
}

type decorrelated struct{ min, max, last time.Duration }

// NextBackOff implements backoff.BackOff.
func (d *decorrelated) NextBackOff() time.Duration {
	ceiling := 3 * min(d.last, math.MaxInt64/3)
	d.last = min(d.max, d.min+rand.N(max(0, ceiling-d.min)+1))
	return d.last
}

// Reset implements backoff.BackOff.
func (d *decorrelated) Reset() { d.last = d.min }

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type attemptKey struct{}

// Attempt returns which try of the innermost [Retry] ctx belongs to, from 1. Without one it is 1.
func Attempt(ctx context.Context) int {
	if n, ok := ctx.Value(attemptKey{}).(int); ok {
		return n
	}
	return 1
}

// withAttempt costs nothing for the first try, unless an outer retry has left its own number.
func withAttempt(ctx context.Context, n int) context.Context {
	if n == 1 && ctx.Value(attemptKey{}) == nil {
		return ctx
	}
	return context.WithValue(ctx, attemptKey{}, n)
}
