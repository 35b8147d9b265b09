package resilience

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Timeout ends the context of the layers inside after d, which must be positive. Outside of a [Retry] it
// bounds the whole call, inside of it each try.
//
// It cannot end a function that ignores its context. An error that comes back after the time is up is wrapped in a
// [*TimeoutError], which is no cancellation, whatever the function says; a success that comes back late is a
// success. It costs nothing when the caller's deadline is nearer anyway, and starts no timer until somebody waits for
// the context's end.
func Timeout(d time.Duration) Policy { return &timeout{limit: d} }

type timeout struct{ limit time.Duration }

func (t *timeout) describe() string { return fmt.Sprintf("timeout %v", t.limit) }
func (t *timeout) fresh() Policy    { return t }

func (t *timeout) check() error {
	if t.limit <= 0 {
		return errors.New("the time must be positive")
	}
	return nil
}

func (t *timeout) run(ctx context.Context, c *call, i int) error {
	deadline := time.Now().Add(t.limit)
	if nearer, ok := ctx.Deadline(); ok && !nearer.After(deadline) {
		return c.next(ctx, i)
	}
	limited := &deadlineContext{Context: ctx, deadline: deadline}
	defer limited.end()
	err := c.next(limited, i)
	if err != nil && ctx.Err() == nil && !time.Now().Before(deadline) {
		if errors.Is(err, context.Canceled) { // by the function, as its time was up
			err = endedBy(limited, err)
		}
		return &TimeoutError{Limit: t.limit, Err: err}
	}
	return err
}

// deadlineContext is context.WithDeadline that makes the real thing, with its timer, only when somebody
// asks for Done. Most fast functions never do.
type deadlineContext struct {
	context.Context // the parent
	deadline        time.Time

	mu     sync.Mutex
	real   context.Context // nil until needed
	cancel context.CancelFunc
	ended  bool
}

// Deadline implements context.Context.
func (c *deadlineContext) Deadline() (time.Time, bool) { return c.deadline, true }

// Done implements context.Context.
func (c *deadlineContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.materialize().Done()
}

// Err implements context.Context.
func (c *deadlineContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending() {
		return nil
	}
	return c.materialize().Err()
}

// Value implements context.Context. It asks the real context once there is one: this is how the context
// package links children to it without a goroutine, and finds the cause.
func (c *deadlineContext) Value(key any) any {
	if _, ours := key.(attemptKey); ours {
		return c.Context.Value(key) // asked in every call, and no part of the real context
	}
	c.mu.Lock()
	var ctx context.Context
	if c.pending() {
		ctx = c.Context
	} else {
		ctx = c.materialize()
	}
	c.mu.Unlock()
	return ctx.Value(key)
}

// pending reports that there is no real context and no need of one to tell that none has ended.
func (c *deadlineContext) pending() bool {
	return c.real == nil && !c.ended && c.Context.Err() == nil && time.Now().Before(c.deadline)
}

func (c *deadlineContext) materialize() context.Context {
	if c.real == nil {
		c.real, c.cancel = context.WithDeadline(c.Context, c.deadline)
		if c.ended {
			c.cancel()
		}
	}
	return c.real
}

// end cancels the context, as its function has returned.
func (c *deadlineContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.cancel != nil {
		c.cancel()
	}
}
