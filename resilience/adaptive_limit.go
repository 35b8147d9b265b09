package resilience

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"
)

// AdaptiveLimit lets a number of calls run at once that it finds by itself, between lowest and highest: it
// raises the limit while calls take about as long as at their fastest, and lowers it when they get slower,
// which means that they queue somewhere, or when they fail. What is above the limit is refused.
//
// It is TCP Vegas with the parameters of Netflix's concurrency-limits (VegasLimit): Brakmo and Peterson,
// "TCP Vegas: End to End Congestion Avoidance on a Global Internet", 1995. Cancellations and refusals by
// policies inside are not measured.
func AdaptiveLimit(lowest, highest int) Policy {
	return &vegas{lowest: lowest, highest: highest, limit: float64(max(lowest, min(highest, vegasStart)))}
}

const (
	vegasStart = 20
	// vegasProbe times the limit is the number of calls after which the fastest time is measured anew, since
	// the dependency may have become slower for good.
	vegasProbe = 30
)

type vegas struct {
	lowest, highest int

	mu       sync.Mutex
	limit    float64
	inFlight int
	fastest  time.Duration // 0: not measured yet
	measured int           // calls since fastest was measured anew
}

func (v *vegas) describe() string {
	return fmt.Sprintf("adaptive limit between %d and %d", v.lowest, v.highest)
}

func (v *vegas) fresh() Policy { return AdaptiveLimit(v.lowest, v.highest) }

func (v *vegas) check() error {
	if v.lowest < 1 || v.highest < v.lowest {
		return errors.New("the lowest limit must be at least 1, and the highest no less than that")
	}
	return nil
}

func (v *vegas) run(ctx context.Context, c *call, i int) error {
	if !v.enter() {
		return c.reject("adaptive limit", "too many calls at once", 0)
	}
	began := time.Now()
	seen := failure // of a function that panics or ends its goroutine
	defer func() { v.leave(time.Since(began), seen) }()
	err := c.next(ctx, i)
	switch {
	case err == nil || OutcomeOf(err) == Failed:
		seen = success
	case isCancelled(ctx, err) || isRejection(err):
		seen = noVerdict
	}
	return err
}

func (v *vegas) enter() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.inFlight >= int(v.limit) {
		return false
	}
	v.inFlight++
	return true
}

func (v *vegas) leave(took time.Duration, seen verdict) {
	v.mu.Lock()
	defer v.mu.Unlock()
	busy := v.inFlight
	v.inFlight--
	switch seen {
	case failure:
		v.set(v.limit - math.Log10(v.limit) - 1)
	case success:
		v.learn(max(took, 1), busy)
	case noVerdict:
	}
}

// learn moves the limit by the number of calls that seem to queue.
func (v *vegas) learn(took time.Duration, busy int) {
	v.measured++
	if v.fastest == 0 || took < v.fastest || float64(v.measured) > vegasProbe*v.limit {
		v.fastest, v.measured = took, 0
		return
	}
	if float64(busy)*2 < v.limit {
		return // the limit was not what held the calls back, so nothing was learnt about it
	}
	queue := math.Ceil(v.limit * (1 - float64(v.fastest)/float64(took)))
	step := max(1, math.Log10(v.limit))
	switch {
	case queue <= step:
		v.set(v.limit + 6*step)
	case queue < 3*step:
		v.set(v.limit + step)
	case queue > 6*step:
		v.set(v.limit - step)
	}
}

func (v *vegas) set(limit float64) {
	v.limit = min(max(limit, float64(v.lowest)), float64(v.highest))
}
