package resilience

import (
	"context"
	"errors"
)

var errNilFunction = errors.New("the function is nil")

// Wrap makes a policy of your own from wrap, which calls next for the layers inside: not at all, once, or
// again after next has returned. name is for people. A copy of the pipeline shares wrap, and so what wrap
// closes over; it must be safe for concurrent use.
//
// A wrap that does not call next and returns an error leaves the call unexecuted. It says so by [WithOutcome]
// or by a [*RejectedError] of its own; else the outcome is in doubt.
func Wrap(name string, wrap func(ctx context.Context, next func(context.Context) error) error) Policy {
	return &wrapper{name: name, wrap: wrap}
}

type wrapper struct {
	name string
	wrap func(ctx context.Context, next func(context.Context) error) error
}

func (w *wrapper) describe() string { return w.name }
func (w *wrapper) fresh() Policy    { return w }

func (w *wrapper) check() error {
	if w.wrap == nil {
		return errNilFunction
	}
	return nil
}

func (w *wrapper) run(ctx context.Context, c *call, i int) error {
	ran := false
	return w.wrap(ctx, func(ctx context.Context) error {
		if ran {
			c.leaf.reset()
		}
		ran = true
		return c.next(ctx, i)
	})
}
