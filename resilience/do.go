package resilience

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Do calls fn through p and returns fn's result.
//
// fn may run more than once if p retries or hedges, at the same time if it hedges, and must then be safe to
// repeat. It should end soon after its context does: nothing can end it from outside. fn runs on the
// caller's goroutine unless p hedges.
//
// With an error, the value is the one that fn returned with it if fn's last try ran, else T's zero value.
// Errors are fn's own, possibly inside of a [*RetryError], [*TimeoutError], [*HedgeError] or [*FallbackError],
// or a [*RejectedError] by a policy; errors.Is and errors.As see through all of them. [OutcomeOf] tells
// whether fn may have had its effect. A context that has ended already is an error of outcome [NotExecuted].
// A panic in fn passes to the caller, counted as a failure.
func Do[T any](ctx context.Context, p *Pipeline, fn func(context.Context) (T, error)) (T, error) {
	f := borrow(p, fn)
	err := f.start(ctx, p)
	value := f.value
	f.giveBack(p)
	return value, err
}

// Run is [Do] for functions without a result.
func Run(ctx context.Context, p *Pipeline, fn func(context.Context) error) error {
	_, err := Do(ctx, p, func(ctx context.Context) (struct{}, error) { return struct{}{}, fn(ctx) })
	return err
}

// DoOr is [Do] with an answer for when the pipeline has none: fallback receives the error and returns what
// the caller gets instead. It does not run when the caller's context has ended. If it fails too, the error
// is a [*FallbackError] that holds both.
//
// A fallback that succeeds hides the outcome of the call, so it belongs around reads, not around writes.
func DoOr[T any](
	ctx context.Context, p *Pipeline,
	fn func(context.Context) (T, error), fallback func(context.Context, error) (T, error),
) (T, error) {
	f := &frame[T]{fn: fn}
	err := f.start(ctx, p)
	if err != nil {
		err = f.fallBack(ctx, err, fallback)
	}
	return f.value, err
}

// call is what the policies see of a call under way.
type call struct {
	p    *Pipeline
	leaf leaf
	once bool // the function must not be repeated
}

// leaf is the typed end of a call, behind which policies need not know the type.
type leaf interface {
	// invoke runs the function and keeps its value.
	invoke(ctx context.Context) error
	// reset gives up the value that an earlier try left.
	reset()
	// fork returns a call that runs at the same time as this one, with a value of its own.
	fork() *call
	// adopt takes the value of a fork that won.
	adopt(fork leaf)
	// fallBack replaces a failed call's value by what fallback returns.
	fallBack(ctx context.Context, err error, fallback any) error
}

// next runs the policies from i on, and then the function.
func (c *call) next(ctx context.Context, i int) error {
	if i < len(c.p.policies) {
		return c.p.policies[i].run(ctx, c, i+1)
	}
	if c.p.observer == nil {
		return c.leaf.invoke(ctx)
	}
	return c.observed(ctx)
}

// reject makes the refusal of a policy.
func (c *call) reject(policy, reason string, wait time.Duration) *RejectedError {
	return &RejectedError{Pipeline: c.p.name, Policy: policy, Reason: reason, Wait: wait}
}

// frame is the state of a call and its result.
type frame[T any] struct {
	call
	fn      func(context.Context) (T, error)
	value   T
	discard func(T) // nil, or what to do with a value that nobody will get
}

// borrow takes a frame that an earlier call of the pipeline has left, if it was one of this type.
func borrow[T any](p *Pipeline, fn func(context.Context) (T, error)) *frame[T] {
	if p.frames != nil {
		if f, ok := p.frames.Get().(*frame[T]); ok {
			f.fn = fn
			return f
		}
	}
	return &frame[T]{fn: fn}
}

// giveBack leaves the frame for a later call. It is not reached when the function panics.
func (f *frame[T]) giveBack(p *Pipeline) {
	if p.frames != nil {
		*f = frame[T]{}
		p.frames.Put(f)
	}
}

func (f *frame[T]) start(ctx context.Context, p *Pipeline) error {
	f.p, f.leaf = p, f
	if p.observer == nil {
		return f.first(ctx)
	}
	began := time.Now()
	err := f.first(ctx)
	p.observer.Call(ctx, p.name, time.Since(began), err)
	return err
}

// first runs the outermost policy.
func (f *frame[T]) first(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return WithOutcome(err, NotExecuted)
	}
	return f.next(ctx, 0)
}

func (f *frame[T]) invoke(ctx context.Context) error {
	var err error
	f.value, err = f.fn(ctx)
	return err
}

func (f *frame[T]) reset() {
	var zero T
	if f.discard != nil {
		f.discard(f.value)
	}
	f.value = zero
}

func (f *frame[T]) fork() *call {
	g := &frame[T]{fn: f.fn, discard: f.discard}
	g.call = call{p: f.p, once: f.once, leaf: g}
	return &g.call
}

func (f *frame[T]) adopt(fork leaf) {
	if g, ok := fork.(*frame[T]); ok {
		f.value = g.value
	}
}

func (f *frame[T]) fallBack(ctx context.Context, err error, fallback any) error {
	if ctx.Err() != nil {
		return err
	}
	fb, ok := fallback.(func(context.Context, error) (T, error))
	if !ok {
		return errors.Join(err, fmt.Errorf("resilience: a fallback of type %T cannot answer for %T", fallback, f.fn))
	}
	f.reset()
	value, failed := fb(ctx, err)
	f.value = value
	if failed != nil {
		return &FallbackError{Call: err, Fallback: failed}
	}
	return nil
}
