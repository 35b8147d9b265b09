package resilience

import (
	"context"
	"errors"
	"time"
)

// Observer hears of every call, try and transition of a pipeline. Its methods run on the calls' way: they
// must be fast, and safe for concurrent use. [OTel] and [Log] return observers, [Observers] joins several.
type Observer interface {
	// Attempt is called before every run of the function: n is the number of the try. The function runs under
	// the context that it returns. ended is called with the function's error, and may be nil.
	Attempt(ctx context.Context, pipeline string, n int) (_ context.Context, ended func(err error))
	// Call is called at the end of every call, with how long it took in all and its final error; not after a panic,
	// of which Attempt's ended has heard.
	Call(ctx context.Context, pipeline string, d time.Duration, err error)
	// Transition is called after a change of a breaker's state.
	Transition(pipeline string, from, to State)
}

// errPanicked stands for the error of a function that did not return.
var errPanicked = errors.New("resilience: the function panicked or ended its goroutine")

// Observe returns a pipeline that shares p's state and reports to o in place of p's observer. A nil observer
// costs nothing. Call it once, at start-up: a breaker tells its transitions to every observer it was given.
func (p *Pipeline) Observe(o Observer) *Pipeline {
	observed := *p
	observed.observer = o
	if o == nil {
		return &observed
	}
	for _, b := range p.breakers() {
		b.OnTransition(func(from, to State) { o.Transition(p.name, from, to) })
	}
	return &observed
}

// observed runs the function between the observer's calls.
func (c *call) observed(ctx context.Context) error {
	ctx, ended := c.p.observer.Attempt(ctx, c.p.name, Attempt(ctx))
	err := errPanicked
	if ended != nil {
		defer func() { ended(err) }()
	}
	err = c.leaf.invoke(ctx)
	return err
}
