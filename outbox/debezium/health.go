package debezium

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Healthy returns nil while the pruner runs, a connector reads the slot, what is published leaves the table and what is
// due moves there. Errors: [ErrNoSlot], [ErrInactive], [ErrLost], [ErrStopped], [ErrBehind], what the database says.
func (p *Pruner) Healthy(ctx context.Context) error {
	if _, err := p.slot(ctx, ""); err != nil {
		return err
	}
	if !p.running.Load() {
		return ErrStopped
	}
	return errors.Join(p.rounds.healthy("rows", p.cfg.BehindAfter),
		p.moves.healthy("scheduled messages", p.cfg.BehindAfter))
}

// A chore is what the pruner does again and again, as Healthy sees it.
type chore struct {
	mu    sync.Mutex
	since time.Time // when it was begun that is not done yet
	err   error     // of the last try
}

// begin notes that there may be something to do; only the first of those tries counts that did not do it.
func (c *chore) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since.IsZero() {
		c.since = time.Now()
	}
}

// done notes that nothing is left to do, or that something was done.
func (c *chore) done() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since = time.Time{}
}

// note keeps what became of a try.
func (c *chore) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// healthy returns the error of the last try, or ErrBehind when nothing was done for longer than limit.
func (c *chore) healthy(what string, limit time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.since.IsZero() {
		return c.err
	}
	if waited := time.Since(c.since); waited > limit {
		return fmt.Errorf("%w: %s wait for %v", ErrBehind, what, waited.Round(time.Second))
	}
	return nil
}
