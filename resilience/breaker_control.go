package resilience

import (
	"sync"
	"sync/atomic"
	"time"
)

// State returns the breaker's state. A forced breaker is Open or Closed.
func (b *Breaker) State() State {
	defer b.deliver()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance(time.Now())
	return stateOf(b.mode.Load())
}

// Forced reports whether [Breaker.ForceOpen] or [Breaker.ForceClosed] is in force.
func (b *Breaker) Forced() bool { return b.mode.Load() >= modeForcedOpen }

// speaks reports whether the breaker is anything but closed by itself.
func (b *Breaker) speaks() bool { return b.mode.Load() != modeClosed }

// RetryAfter returns how long the breaker goes on refusing calls; 0 means that one would pass.
// While probes are under way it is a guess, a quarter of the cooldown at most. A breaker that was forced open
// answers with its cooldown, as nobody knows.
func (b *Breaker) RetryAfter() time.Duration {
	defer b.deliver()
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.advance(now)
	switch b.mode.Load() {
	case modeForcedOpen:
		return b.cfg.Cooldown
	case modeOpen:
		return b.openUntil.Sub(now)
	case modeHalfOpen:
		if len(b.probes)+b.recovered >= b.cfg.Probes {
			return b.probeWait(now)
		}
	}
	return 0
}

// ForceOpen refuses every call until [Breaker.Reset] or ForceClosed, whatever happens.
func (b *Breaker) ForceOpen() { b.force(modeForcedOpen) }

// ForceClosed lets every call pass until [Breaker.Reset] or ForceOpen, and counts nothing.
func (b *Breaker) ForceClosed() { b.force(modeForcedClosed) }

// Reset ends what was forced, closes the breaker and forgets what it counted. Calls under way count no more.
func (b *Breaker) Reset() { b.force(modeClosed) }

func (b *Breaker) force(mode int32) {
	defer b.deliver()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.enter(mode)
}

// OnTransition has listen called after every change of state, in order, outside of the breaker's locks:
// it may call the breaker, also to force or reset it. It runs on the goroutine of a call, one at a time.
func (b *Breaker) OnTransition(listen func(from, to State)) { b.register(listen) }

// listeners hands transitions to listeners in order, one at a time and without a lock held.
type listeners struct {
	waiting atomic.Int32 // transitions to deliver, so that looking is cheap

	listenMu   sync.Mutex
	all        []func(from, to State)
	queue      []transition
	delivering bool
}

type transition struct{ from, to State }

func (l *listeners) register(listen func(from, to State)) {
	l.listenMu.Lock()
	defer l.listenMu.Unlock()
	l.all = append(l.all, listen)
}

func (l *listeners) note(from, to State) {
	l.listenMu.Lock()
	defer l.listenMu.Unlock()
	if len(l.all) > 0 {
		l.queue = append(l.queue, transition{from, to})
		l.waiting.Add(1)
	}
}

// deliver returns at once if there is nothing to do or another goroutine, or a caller further up, is at it.
func (l *listeners) deliver() {
	if l.waiting.Load() == 0 {
		return
	}
	l.listenMu.Lock()
	defer l.listenMu.Unlock()
	if l.delivering {
		return
	}
	l.delivering = true
	defer func() { l.delivering = false }()
	for len(l.queue) > 0 {
		t := l.queue[0]
		l.queue = l.queue[1:]
		l.waiting.Add(-1)
		for _, listen := range l.all {
			l.call(listen, t)
		}
	}
}

func (l *listeners) call(listen func(from, to State), t transition) {
	l.listenMu.Unlock()
	defer l.listenMu.Lock() // also when the listener panics
	listen(t.from, t.to)
}
