package resilience

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// RejectedError says that a policy refused the call, which policy, why, and when to come back.
// A refused try did not run: its [Outcome] is [NotExecuted].
type RejectedError struct {
	// Pipeline is the name of the pipeline.
	Pipeline string
	// Policy is "breaker", "bulkhead", "rate limit", "adaptive limit", "adaptive throttle" or "handler".
	Policy string
	// Reason is a short text for people.
	Reason string
	// Wait is how long to wait before another call is worth trying; 0 means unknown.
	Wait time.Duration
	// Err is the end of the context if that cut short a wait for the policy, else nil.
	Err error
}

// Error implements error.
func (e *RejectedError) Error() string {
	return fmt.Sprintf("resilience: %s: %s: %s", e.Pipeline, e.Policy, e.Reason)
}

// Unwrap returns Err.
func (e *RejectedError) Unwrap() error { return e.Err }

// RetryAfter returns Wait. It is a method so that packages which do not import this one can ask for it,
// through errors.As with an interface{ RetryAfter() time.Duration }.
func (e *RejectedError) RetryAfter() time.Duration { return e.Wait }

// Outcome returns [NotExecuted].
func (e *RejectedError) Outcome() Outcome { return NotExecuted }

// TimeoutError says that a [Timeout] policy's time was up when the call failed.
// It matches context.DeadlineExceeded.
type TimeoutError struct {
	// Limit is the policy's time.
	Limit time.Duration
	// Err is what the layers inside returned.
	Err error
}

// Error implements error.
func (e *TimeoutError) Error() string {
	return fmt.Sprintf("resilience: timeout of %v: %v", e.Limit, e.Err)
}

// Unwrap returns Err.
func (e *TimeoutError) Unwrap() error { return e.Err }

// Is reports whether target is context.DeadlineExceeded.
func (e *TimeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// Timeout returns true, as in net.Error.
func (e *TimeoutError) Timeout() bool { return true }

// RetryError holds the error of every try of a call that a [Retry] policy gave up.
type RetryError struct {
	// Errs are the errors of the tries, the first try first.
	Errs []error
	// Stopped says why there was no further try.
	Stopped string
}

// Error implements error.
func (e *RetryError) Error() string {
	return fmt.Sprintf("resilience: %d tries (%s): %s", len(e.Errs), e.Stopped, list(e.Errs))
}

// Unwrap returns the errors of the tries, the last try first, so that errors.As finds the latest.
func (e *RetryError) Unwrap() []error {
	out := make([]error, len(e.Errs))
	for i, err := range e.Errs {
		out[len(out)-1-i] = err
	}
	return out
}

// HedgeError holds the errors of the tries of a hedged call, all of which failed.
type HedgeError struct {
	// Errs are the errors in the order in which the tries ended.
	Errs []error
}

// Error implements error.
func (e *HedgeError) Error() string {
	return fmt.Sprintf("resilience: %d hedged tries: %s", len(e.Errs), list(e.Errs))
}

// Unwrap returns Errs.
func (e *HedgeError) Unwrap() []error { return e.Errs }

// FallbackError holds the error of a call and that of the fallback which should have answered for it.
type FallbackError struct {
	Call, Fallback error
}

// Error implements error.
func (e *FallbackError) Error() string {
	return fmt.Sprintf("resilience: fallback: %v, after: %v", e.Fallback, e.Call)
}

// Unwrap returns the call's error, then the fallback's.
func (e *FallbackError) Unwrap() []error { return []error{e.Call, e.Fallback} }

func list(errs []error) string {
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// isCancelled reports whether err is a cancellation, which says nothing about the dependency.
func isCancelled(ctx context.Context, err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(ctx.Err(), context.Canceled)
}

// endedBy says of an error that ctx has ended. Where the time was up, a function, or HTTP/2 below a Transport, may say
// that it was canceled: that is hidden, as it would pass for the caller's doing.
func endedBy(ctx context.Context, err error) error {
	ended := ctx.Err()
	switch {
	case ended == nil:
		return err
	case errors.Is(err, context.Canceled) && !errors.Is(ended, context.Canceled):
		return WithOutcome(fmt.Errorf("%w: %v", ended, err), OutcomeOf(err)) //nolint:errorlint // it is to be hidden
	case errors.Is(err, ended):
		return err
	default:
		return fmt.Errorf("%w: %w", ended, err)
	}
}
