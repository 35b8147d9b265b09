package resilience

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/time/rate"
)

// RateLimit lets perSecond calls pass on average, and burst at once after a rest. The others are refused
// with a [*RejectedError] whose Wait says when the next place comes up; nobody waits here. Both must be
// positive.
func RateLimit(perSecond float64, burst int) Policy {
	return &rateLimit{limiter: rate.NewLimiter(rate.Limit(perSecond), burst)}
}

type rateLimit struct{ limiter *rate.Limiter }

func (r *rateLimit) describe() string {
	return fmt.Sprintf("rate limit %v/s, burst %d", r.limiter.Limit(), r.limiter.Burst())
}

func (r *rateLimit) fresh() Policy { return RateLimit(float64(r.limiter.Limit()), r.limiter.Burst()) }

func (r *rateLimit) check() error {
	if !(r.limiter.Limit() > 0) || r.limiter.Burst() < 1 {
		return errors.New("rate and burst must be positive")
	}
	return nil
}

func (r *rateLimit) run(ctx context.Context, c *call, i int) error {
	now := time.Now()
	if r.limiter.AllowN(now, 1) {
		return c.next(ctx, i)
	}
	missing := max(0, 1-r.limiter.TokensAt(now))
	wait := missing / float64(r.limiter.Limit()) * float64(time.Second)
	if wait >= math.MaxInt64 {
		return c.reject("rate limit", "too many calls", math.MaxInt64)
	}
	return c.reject("rate limit", "too many calls", max(time.Duration(wait), time.Nanosecond))
}
