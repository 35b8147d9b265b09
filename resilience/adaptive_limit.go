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
// "TCP Vegas: End to End Congestion Avoidance on a Global Internet", 1995. The fastest time is measured anew
// now and then at half of the limit, as BBR does (Cardwell and others, 2016): at the full limit the queue of
// its own making would pass for the dependency's speed, and the limit would drift up. That takes a twenty-fifth
// of the calls. The limit moves once in about as many calls as it lets run, and failures lower it by half of
// their share. Cancellations and refusals by policies inside are not measured, nor are definite failures: a "no"
// that comes at once would pass for the dependency's speed, and the time of all other calls for waiting. For the same
// reason the calls should be of one kind.
func AdaptiveLimit(lowest, highest int) Policy {
	return &vegas{lowest: lowest, highest: highest, limit: float64(max(lowest, min(highest, vegasStart)))}
}

const (
	vegasStart = 20
	// vegasPeriod and vegasProbe, times the limit, are the numbers of calls after which the fastest time is
	// measured anew, and with which.
	vegasPeriod = 50
	vegasProbe  = 2
)

type vegas struct {
	lowest, highest int

	mu       sync.Mutex
	limit    float64
	inFlight int
	fastest  time.Duration // 0: not measured yet
	calls    int           // since fastest was measured anew
	probing  bool          // it is being measured anew
	lately   time.Duration // fastest while probing
	round    vegasRound
}

// vegasRound is what was seen in about as many calls as the limit lets run at once, after which it is set anew.
type vegasRound struct {
	calls, failures, busiest int
	took                     time.Duration // in all, of the successes
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
	case err == nil:
		seen = success
	case OutcomeOf(err) == Failed || isCancelled(ctx, err) || isRejection(err):
		seen = noVerdict
	}
	return err
}

func (v *vegas) enter() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	limit := int(v.limit)
	if v.probing {
		limit = max(v.lowest, limit/2)
	}
	if v.inFlight >= limit {
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
	if seen == noVerdict {
		return
	}
	v.round.calls++
	v.round.busiest = max(v.round.busiest, busy)
	if seen == failure {
		v.round.failures++
	} else {
		v.measure(max(took, 1))
	}
	if float64(v.round.calls) >= v.limit {
		v.adjust(v.round)
		v.round = vegasRound{}
	}
}

func (v *vegas) measure(took time.Duration) {
	v.round.took += took
	if v.fastest == 0 || took < v.fastest {
		v.fastest = took
	}
	v.probe(took)
}

// adjust moves the limit by the number of calls that seem to queue, which tells nothing while few of them are let
// through on purpose, and by the share that failed.
func (v *vegas) adjust(r vegasRound) {
	limit := v.limit * (1 - float64(r.failures)/float64(2*r.calls))
	if succeeded := r.calls - r.failures; !v.probing && succeeded > 0 && float64(r.busiest)*2 >= v.limit {
		average := float64(r.took) / float64(succeeded)
		queue := v.limit * (1 - float64(v.fastest)/average)
		step := max(1, math.Log10(v.limit))
		switch {
		case queue <= step:
			limit += 6 * step
		case queue < 3*step:
			limit += step
		case queue > 6*step:
			limit -= step
		}
	}
	v.limit = min(max(limit, float64(v.lowest)), float64(v.highest))
}

// probe measures the fastest time anew when it is time to.
func (v *vegas) probe(took time.Duration) {
	v.calls++
	switch {
	case !v.probing:
		if float64(v.calls) > vegasPeriod*v.limit {
			v.probing, v.calls, v.lately = true, 0, took
		}
	case float64(v.calls) > vegasProbe*v.limit:
		v.probing, v.calls, v.fastest = false, 0, v.lately
	default:
		v.lately = min(v.lately, took)
	}
}
