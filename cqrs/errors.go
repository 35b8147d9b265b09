package cqrs

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrNoHandler says that no handler is registered for the type in this processor.
	ErrNoHandler = errors.New("cqrs: no handler")
	// ErrUnknownType says that a type, or a name on the wire, is not in the catalog.
	ErrUnknownType = errors.New("cqrs: type is not in the catalog")
	// ErrNewerVersion says that a message was written by a newer version than the catalog knows. It waits, parked,
	// for the deploy that understands it.
	ErrNewerVersion = errors.New("cqrs: message of a newer version")
	// ErrUndecodable says that a payload is not what its type says. The message becomes a dead letter at once.
	ErrUndecodable = errors.New("cqrs: cannot decode")
	// ErrInTransaction is returned by what waits for others when it is called inside a unit of work.
	ErrInTransaction = errors.New("cqrs: may not wait inside a transaction")
	// ErrDeferred is returned by a handler that will be answered later, through [Reply]. What it wrote is
	// committed and the message is done; only the reply is still missing.
	ErrDeferred = errors.New("cqrs: the reply is deferred")
	// ErrNotExecuted says that a command certainly had no effect: it may be sent again, or left, with nothing to
	// undo. A handler that returns it is committed (it may have noted that it refused) and answered so.
	ErrNotExecuted = errors.New("cqrs: not executed")
	// ErrNotRunning is returned by [Call] when the processor, which receives the reply, does not run.
	ErrNotRunning = errors.New("cqrs: the processor does not run")
	// ErrLeaseLost is returned by a [Parking] when somebody else has leased the message since.
	ErrLeaseLost = errors.New("cqrs: lease lost")
	// ErrPanic wraps the value of a handler's panic, and stands for its runtime.Goexit.
	ErrPanic = errors.New("cqrs: handler panicked")
	// ErrHung is the failure of a message whose handler did not return a moment after its deadline (see
	// [ProcessorConfig].HandlerTimeout), and what Run returns if a handler has still not returned when it ends.
	ErrHung = errors.New("cqrs: handler does not return")
)

// A Rejection is a business refusal: "no" is the answer, not a failure. Its handler's writes are undone;
// it is never retried; it reaches [Execute], [Call] and a saga's step as it is, across services too.
// Where nobody waits for an answer the message becomes a dead letter at once.
type Rejection struct {
	Code string // stable, for programs: "sold_out"
	Err  error  // for people; only its text crosses services. May be nil
}

// Error returns the code and, if there is one, the text. A nil pointer that was returned as an error is a failure.
func (r *Rejection) Error() string {
	switch {
	case r == nil:
		return "cqrs: an error that is a nil *Rejection"
	case r.Err == nil:
		return r.Code
	}
	return r.Code + ": " + r.Err.Error()
}

// Unwrap returns the text's error.
func (r *Rejection) Unwrap() error {
	if r == nil {
		return nil
	}
	return r.Err
}

// Reject returns a [Rejection] as an error. Every other error is transient: retried, then a dead letter.
func Reject(code string, err error) error { return &Rejection{Code: code, Err: err} }

// AsRejection returns the [Rejection] in err's tree, or nil.
func AsRejection(err error) *Rejection {
	if err == nil {
		return nil
	}
	var r *Rejection
	if errors.As(err, &r) {
		return r
	}
	return nil
}

// textOfError is what is noted of an application's error. One that panics when it is asked, as a nil pointer may, does
// so inside of fmt, which says so in the text.
func textOfError(err error) string {
	if text := fmt.Sprint(err); text != "<nil>" {
		return text
	}
	return fmt.Sprintf("cqrs: an error that is a nil %T", err)
}

// A LaterError asks that a message be tried again after Delay. [Later] makes one.
type LaterError struct {
	Delay time.Duration
	Err   error
}

// Error says when and why.
func (e *LaterError) Error() string { return fmt.Sprintf("cqrs: try again in %s: %v", e.Delay, e.Err) }

// Unwrap returns the reason.
func (e *LaterError) Unwrap() error { return e.Err }

// Later returns an error with which a handler says "not now": its writes are undone, the message and its
// key's successors are parked durably, and it is tried again after d. No attempt is consumed.
// A d of 0 or less means the processor's shortest backoff.
func Later(d time.Duration, err error) error { return &LaterError{Delay: d, Err: err} }
