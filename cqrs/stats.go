package cqrs

import (
	"context"
	"sync/atomic"
)

// Stats counts messages since the processor was made. Every message that was taken in is counted once when it is
// handled, skipped, a duplicate or dead, and once more for each time that it was parked or failed. Hung is a gauge.
type Stats struct {
	Handled    int64 // by their handlers, committed
	Rejected   int64 // of Handled and Dead: refused by a [Rejection]
	Failed     int64 // runs that failed and consumed an attempt
	Postponed  int64 // parked or held, to run later or behind others
	Dead       int64 // dead letters
	Skipped    int64 // known, or an event, with no handler in this group
	Duplicates int64 // known to the inbox
	Hung       int64 // handlers that were left behind and have not returned, now
}

type counters struct{ handled, rejected, failed, postponed, dead, skipped, duplicates atomic.Int64 }

func (c *counters) count(it *item) {
	switch it.fate {
	case handled:
		c.handled.Add(1)
	case skipped:
		c.skipped.Add(1)
	case duplicate:
		c.duplicates.Add(1)
	case behind, retried, scheduled:
		c.postponed.Add(1)
	case dead:
		c.dead.Add(1)
	}
	if it.counts {
		c.failed.Add(1)
	}
	if it.refused {
		c.rejected.Add(1)
	}
}

// Stats returns the counters.
func (p *Processor) Stats() Stats {
	c := &p.stats
	return Stats{
		Handled: c.handled.Load(), Rejected: c.rejected.Load(), Failed: c.failed.Load(),
		Postponed: c.postponed.Load(), Dead: c.dead.Load(), Skipped: c.skipped.Load(),
		Duplicates: c.duplicates.Load(), Hung: p.hung.count(),
	}
}

// Lagger is what a subscriber implements that can tell how many messages of each topic its group has not finished.
type Lagger interface {
	Lag(ctx context.Context) (map[string]int64, error)
}

// Lag reports how many messages of each topic wait. It is nil when the processor does not run or its subscriber
// cannot tell (see [Lagger]).
func (p *Processor) Lag(ctx context.Context) (map[string]int64, error) {
	r := p.current.Load()
	if r == nil {
		return nil, nil
	}
	l, ok := r.sub.(Lagger)
	if !ok {
		return nil, nil
	}
	return l.Lag(ctx)
}
