package resilience

import (
	"context"
	"errors"
	"net"
)

// Outcome is what may have happened to a call: the worst of its tries. A larger value is worse.
type Outcome int

const (
	// OK means that the call succeeded.
	OK Outcome = iota
	// NotExecuted means that nothing can have happened: every try was refused by a policy on this side, or
	// failed before a byte was sent, or was shed by a [Handler] on the other side.
	NotExecuted
	// Failed means that the other side answered with a definite failure.
	Failed
	// InDoubt means that the call may or may not have had its effect.
	InDoubt
)

// String returns the outcome in lower case.
func (o Outcome) String() string {
	switch o {
	case OK:
		return "ok"
	case NotExecuted:
		return "not executed"
	case Failed:
		return "failed"
	default:
		return "in doubt"
	}
}

// OutcomeOf reports what err says about the call: the worst of all its tries, through retry, hedge, timeout
// and fallback. A timeout followed by "breaker open" is in doubt.
//
//   - nil is [OK]
//   - an error with a method Outcome() Outcome, such as [*RejectedError] or one made by [WithOutcome],
//     is what that method says
//   - a failure to connect or to resolve a name is [NotExecuted]
//   - every other error is [InDoubt], because an error that nobody has classified proves nothing. Mark
//     definite failures with [WithOutcome]; a [Transport]'s answers are classified by [HTTPOutcome].
func OutcomeOf(err error) Outcome {
	switch e := err.(type) { //nolint:errorlint // this walks the tree itself: a wrapped tree has several leaves
	case nil:
		return OK
	case interface{ Outcome() Outcome }:
		return e.Outcome()
	case *net.OpError:
		if e.Op == "dial" {
			return NotExecuted
		}
	case *net.DNSError:
		return NotExecuted
	}
	return outcomeInside(err)
}

func outcomeInside(err error) Outcome {
	switch e := err.(type) { //nolint:errorlint // see OutcomeOf
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			return OutcomeOf(inner)
		}
	case interface{ Unwrap() []error }:
		worst := OK
		for _, inner := range e.Unwrap() {
			worst = max(worst, OutcomeOf(inner))
		}
		if worst != OK {
			return worst
		}
	}
	return InDoubt
}

// WithOutcome marks err with what it says about the call. A definite refusal by the other side is [Failed]:
// it is not retried, and it does not count against a [Breaker]. It returns nil if err is nil.
func WithOutcome(err error, o Outcome) error {
	if err == nil {
		return nil
	}
	return &outcomeError{err: err, outcome: o}
}

type outcomeError struct {
	err     error
	outcome Outcome
}

func (e *outcomeError) Error() string    { return e.err.Error() }
func (e *outcomeError) Unwrap() error    { return e.err }
func (e *outcomeError) Outcome() Outcome { return e.outcome }

// Timeout is for those who ask a net.Error, as url.Error does of what it wraps.
func (e *outcomeError) Timeout() bool {
	inner, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](e.err)
	return ok && inner.Timeout()
}

// IsRetryable reports whether a [Retry] policy with no RetryIf of its own would try again after err.
// It would not after nil, a cancellation, a refusal by a policy on this side (the caller should hear of it
// at once) and a definite failure ([Failed]). It would after everything else, so what is retried must be
// safe to repeat.
func IsRetryable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || isRejection(err) {
		return false
	}
	return OutcomeOf(err) != Failed
}

// isRejection reports whether err is a refusal on this side and nothing else has happened.
func isRejection(err error) bool {
	_, ok := errors.AsType[*RejectedError](err)
	return ok && OutcomeOf(err) == NotExecuted
}
