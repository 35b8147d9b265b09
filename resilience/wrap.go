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
// What must not be repeated is not: in a [Transport]'s call of a request that may be sent only once, and in a
// [Handler]'s, a further next runs nothing and returns what the first did.
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
	var last error
	return w.wrap(ctx, func(ctx context.Context) error {
		if ran && c.once {
			return last
		}
		if ran {
			c.leaf.reset()
		}
		ran, last = true, errPanicked
		last = c.next(ctx, i)
		return last
	})
}
