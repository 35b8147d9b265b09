package outbox

import (
	"context"
	"time"
)

// HolderOf returns what holds the horizon back.
func HolderOf(ctx context.Context, o *Outbox) (*Holder, error) { return o.holder(ctx) }

// Rate is a rate with the clock built in.
type Rate struct{ rate }

// NewRate returns a rate that begins now.
func NewRate() *Rate { return &Rate{rate{began: time.Now()}} }

// Add counts.
func (r *Rate) Add(n int) { r.add(n, time.Now()) }

// PerSecond returns the rate.
func (r *Rate) PerSecond() float64 { return r.perSecond(time.Now()) }

// KnownTopics returns how many topics the relay has in memory.
func (r *Relay) KnownTopics() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.topics)
}

// Pauses returns how long a relay pauses after so many failures in a row.
func Pauses(cfg RelayConfig, tries int) (all []time.Duration) {
	r := &Relay{cfg: cfg.withDefaults()}
	for n := range tries {
		all = append(all, r.backoff(n))
	}
	return all
}
