package resilience

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// AdaptiveThrottle refuses a share of the calls while the dependency fails, in proportion to how much it
// fails, so that a dependency in overload is not kept there. Over the last two minutes it admits about k
// times as many calls as have succeeded: a smaller k is stricter. k must be at least 1; 2 is usual, 0 means 2.
// Source: "Site Reliability Engineering", chapter 21 "Handling Overload", client-side throttling, 2016.
//
// Unlike a [Breaker] it never stops all calls, so it needs no probes. Cancellations, refusals by policies
// inside and definite answers do not count as failures.
func AdaptiveThrottle(k float64) Policy {
	if k == 0 {
		k = 2
	}
	return &throttle{k: k}
}

const (
	throttleSlices = 12
	throttleSlice  = 10 * time.Second
)

type throttle struct {
	k float64

	mu     sync.Mutex
	newest int64 // number of the newest slice
	slices [throttleSlices]tally
	sum    tally
}

type tally struct{ requests, accepts float64 }

func (t *throttle) describe() string { return fmt.Sprintf("adaptive throttle, k %v", t.k) }
func (t *throttle) fresh() Policy    { return AdaptiveThrottle(t.k) }

func (t *throttle) check() error {
	if !(t.k >= 1) {
		return fmt.Errorf("k is %v, must be at least 1", t.k)
	}
	return nil
}

func (t *throttle) run(ctx context.Context, c *call, i int) error {
	if rand.Float64() < t.refusing() {
		t.count(tally{requests: 1})
		return c.reject("adaptive throttle", "too many calls have failed", time.Second)
	}
	counted := tally{requests: 1} // of a function that panics or ends its goroutine
	defer func() { t.count(counted) }()
	err := c.next(ctx, i)
	switch {
	case err == nil || OutcomeOf(err) == Failed:
		counted.accepts = 1
	case isCancelled(ctx, err) || isRejection(err):
		counted = tally{}
	}
	return err
}

// refusing returns the probability with which the next call is refused.
func (t *throttle) refusing() float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn()
	return max(0, (t.sum.requests-t.k*t.sum.accepts)/(t.sum.requests+1))
}

func (t *throttle) count(n tally) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn()
	current := &t.slices[t.newest%throttleSlices]
	current.requests += n.requests
	current.accepts += n.accepts
	t.sum.requests += n.requests
	t.sum.accepts += n.accepts
}

// turn forgets the slices that are too old. Callers hold mu.
func (t *throttle) turn() {
	now := time.Now().UnixNano() / int64(throttleSlice)
	for steps := min(now-t.newest, throttleSlices); steps > 0; steps-- {
		old := &t.slices[(now-steps+1)%throttleSlices]
		t.sum.requests -= old.requests
		t.sum.accepts -= old.accepts
		*old = tally{}
	}
	t.newest = max(t.newest, now)
}
