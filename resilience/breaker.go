package resilience

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker"
)

// State is the state of a [Breaker]. A larger value is worse.
type State int

const (
	// Closed lets calls pass.
	Closed State = iota
	// HalfOpen lets a few probes pass to see whether the dependency is back.
	HalfOpen
	// Open refuses calls.
	Open
)

// String returns the state in lower case.
func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case HalfOpen:
		return "half-open"
	default:
		return "open"
	}
}

// Breaker is a [Policy] that refuses calls to a dependency which fails, and tries it again with a few probes
// after a while. One breaker may serve several pipelines, which then share its state. Source: Michael Nygard,
// "Release It!", 2007.
//
// It moves from Open to HalfOpen, and gives up a hung probe, when somebody calls or asks: no goroutine and
// no timer runs. Safe for concurrent use.
type Breaker struct {
	cfg BreakerConfig

	// mode is read without the lock on the way of every call.
	mode atomic.Int32
	// counter counts the calls of one closed period and tells when to trip. Lock order: its lock, then mu.
	counter atomic.Pointer[gobreaker.CircuitBreaker]

	mu        sync.Mutex
	period    uint64    // changes with every transition: what belongs to an earlier one counts no more
	openUntil time.Time // while open
	probes    []*probe  // while half-open: those under way, oldest first
	recovered int       // while half-open: probes that succeeded

	listeners
}

// The modes of a breaker: its states, and the two that an operator can force.
const (
	modeClosed int32 = iota
	modeHalfOpen
	modeOpen
	modeForcedOpen
	modeForcedClosed
)

// probe is a call that was let through to see whether the dependency is back.
type probe struct {
	period   uint64
	deadline time.Time
}

// ticket is what a call that was let in owes the breaker: a verdict.
type ticket struct {
	counter *gobreaker.CircuitBreaker
	probe   *probe
}

type verdict int

const (
	success verdict = iota
	failure
	noVerdict
)

// NewBreaker returns a closed breaker. A bad configuration is reported by [New].
func NewBreaker(cfg BreakerConfig) *Breaker {
	b := &Breaker{cfg: cfg.withDefaults()}
	b.counter.Store(b.newCounter(b.period))
	return b
}

func (b *Breaker) describe() string { return fmt.Sprintf("breaker, cooldown %v", b.cfg.Cooldown) }
func (b *Breaker) check() error     { return b.cfg.Validate() }
func (b *Breaker) fresh() Policy    { return NewBreaker(b.cfg) }

func (b *Breaker) run(ctx context.Context, c *call, i int) error {
	t, wait, reason := b.admit()
	if reason != "" {
		return c.reject("breaker", reason, wait)
	}
	var began time.Time
	if b.cfg.SlowAfter > 0 {
		began = time.Now()
	}
	v := failure // of a function that panics or ends its goroutine
	defer func() { b.settle(t, v) }()
	err := c.next(ctx, i)
	v = b.judge(ctx, err, began)
	return err
}

func (b *Breaker) judge(ctx context.Context, err error, began time.Time) verdict {
	switch {
	case err != nil && (isCancelled(ctx, err) || isRejection(err)):
		return noVerdict
	case err != nil && b.cfg.IsFailure(err):
		return failure
	case b.cfg.SlowAfter > 0 && time.Since(began) > b.cfg.SlowAfter:
		return failure
	default:
		return success
	}
}

// admit returns a ticket, or the reason why there is none and when to come back.
func (b *Breaker) admit() (t ticket, wait time.Duration, reason string) {
	switch b.mode.Load() {
	case modeClosed:
		return ticket{counter: b.counter.Load()}, 0, ""
	case modeForcedClosed:
		return ticket{}, 0, ""
	}
	defer b.deliver()
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.advance(now)
	switch b.mode.Load() {
	case modeClosed:
		return ticket{counter: b.counter.Load()}, 0, ""
	case modeForcedClosed:
		return ticket{}, 0, ""
	case modeForcedOpen:
		return ticket{}, b.cfg.Cooldown, "forced open"
	case modeOpen:
		return ticket{}, b.openUntil.Sub(now), "open"
	}
	if len(b.probes)+b.recovered >= b.cfg.Probes {
		return ticket{}, b.probeWait(now), "half-open, probes are under way"
	}
	p := &probe{period: b.period, deadline: now.Add(b.cfg.ProbeTimeout)}
	b.probes = append(b.probes, p)
	return ticket{probe: p}, 0, ""
}

// probeWait tells callers when to look again while probes are under way. It is less than a probe may take: most
// come back soon, and then there is no more reason to stay away.
func (b *Breaker) probeWait(now time.Time) time.Duration {
	return min(b.cfg.Cooldown/4, b.probes[0].deadline.Sub(now))
}

// settle takes a call's verdict.
func (b *Breaker) settle(t ticket, v verdict) {
	switch {
	case t.probe != nil:
		b.settleProbe(t.probe, v)
		b.deliver()
	case t.counter == nil || v == noVerdict:
	case v == success:
		_, _ = t.counter.Execute(succeed)
	default:
		_, _ = t.counter.Execute(fail)
		b.deliver()
	}
}

func (b *Breaker) settleProbe(p *probe, v verdict) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.advance(now)
	if p.period != b.period {
		return
	}
	for i, other := range b.probes {
		if other == p {
			b.probes = append(b.probes[:i], b.probes[i+1:]...)
			break
		}
	}
	switch v {
	case success:
		if b.recovered++; b.recovered >= b.cfg.Probes {
			b.enter(modeClosed)
		}
	case failure:
		b.open(now)
	case noVerdict: // its place is free for another
	}
}

// advance makes the transitions that are due by the clock. Callers hold mu.
func (b *Breaker) advance(now time.Time) {
	if b.mode.Load() == modeHalfOpen && len(b.probes) > 0 && !now.Before(b.probes[0].deadline) {
		b.open(b.probes[0].deadline)
	}
	if b.mode.Load() == modeOpen && !now.Before(b.openUntil) {
		b.enter(modeHalfOpen)
	}
}

func (b *Breaker) open(now time.Time) {
	b.openUntil = now.Add(b.cfg.Cooldown)
	b.enter(modeOpen)
}

// enter begins a period in mode. Callers hold mu.
func (b *Breaker) enter(mode int32) {
	from := stateOf(b.mode.Load())
	b.period++
	b.probes, b.recovered = nil, 0
	if mode == modeClosed {
		b.counter.Store(b.newCounter(b.period))
	}
	b.mode.Store(mode)
	if to := stateOf(mode); to != from {
		b.note(from, to)
	}
}

// newCounter returns the counter of a closed period. gobreaker counts calls and says when to trip. Its own
// half-open state is not used: a probe that hangs or is canceled locks it for ever.
func (b *Breaker) newCounter(period uint64) *gobreaker.CircuitBreaker {
	return gobreaker.NewCircuitBreaker(gobreaker.Settings{
		Interval:    b.cfg.Window,
		Timeout:     time.Hour,
		ReadyToTrip: b.shouldTrip,
		OnStateChange: func(_ string, _, to gobreaker.State) {
			b.mu.Lock()
			defer b.mu.Unlock()
			if to == gobreaker.StateOpen && period == b.period && b.mode.Load() == modeClosed {
				b.open(time.Now())
			}
		},
	})
}

func (b *Breaker) shouldTrip(n gobreaker.Counts) bool {
	if b.cfg.Consecutive > 0 && int64(n.ConsecutiveFailures) >= int64(b.cfg.Consecutive) {
		return true
	}
	ended := n.TotalFailures + n.TotalSuccesses
	return b.cfg.FailureRatio > 0 && int64(ended) >= int64(b.cfg.MinCalls) &&
		float64(n.TotalFailures) >= b.cfg.FailureRatio*float64(ended)
}

var errCounted = errors.New("resilience: counted")

// Calls are counted when they end, as one that begins and ends in different windows would not count.
func succeed() (any, error) { return nil, nil }
func fail() (any, error)    { return nil, errCounted }

func stateOf(mode int32) State {
	switch mode {
	case modeOpen, modeForcedOpen:
		return Open
	case modeHalfOpen:
		return HalfOpen
	default:
		return Closed
	}
}
