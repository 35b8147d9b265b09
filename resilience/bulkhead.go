package resilience

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Bulkhead lets at most n calls run at once. Up to n more wait for a place, first come, first served, each
// for at most maxWait; what is beyond that is refused with a [*RejectedError]. A maxWait of 0 means that
// nobody waits. n must be positive.
//
// A wait that the caller's deadline or cancellation ends did not run: its outcome is [NotExecuted].
func Bulkhead(n int, maxWait time.Duration) Policy {
	return &bulkhead{size: n, maxWait: maxWait, places: make(chan struct{}, max(n, 0))}
}

type bulkhead struct {
	size    int
	maxWait time.Duration
	places  chan struct{}
	waiting atomic.Int64
}

func (b *bulkhead) describe() string {
	return fmt.Sprintf("bulkhead of %d, wait %v", b.size, b.maxWait)
}
func (b *bulkhead) fresh() Policy { return Bulkhead(b.size, b.maxWait) }

func (b *bulkhead) check() error {
	if b.size < 1 {
		return errors.New("it must have at least one place")
	}
	if b.maxWait < 0 {
		return fmt.Errorf("the wait is %v, must not be negative", b.maxWait)
	}
	return nil
}

func (b *bulkhead) run(ctx context.Context, c *call, i int) error {
	select {
	case b.places <- struct{}{}:
	default:
		if err := b.wait(ctx, c); err != nil {
			return err
		}
	}
	defer func() { <-b.places }()
	return c.next(ctx, i)
}

func (b *bulkhead) wait(ctx context.Context, c *call) error {
	if b.maxWait == 0 {
		return c.reject("bulkhead", "full", 0)
	}
	defer b.waiting.Add(-1)
	if b.waiting.Add(1) > int64(b.size) {
		return c.reject("bulkhead", "full, and so is its queue", b.maxWait)
	}
	timer := time.NewTimer(b.maxWait)
	defer timer.Stop()
	select {
	case b.places <- struct{}{}:
		return nil
	case <-timer.C:
		return c.reject("bulkhead", "no place within the wait", b.maxWait)
	case <-ctx.Done():
		err := c.reject("bulkhead", "the caller's time was up in the queue", b.maxWait)
		err.Err = ctx.Err()
		return err
	}
}
