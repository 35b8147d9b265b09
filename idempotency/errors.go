package idempotency

import "errors"

var (
	// ErrInFlight means that the first request with this key is still running. Try again later.
	ErrInFlight = errors.New("idempotency: the first request is still running")
	// ErrMismatch means that the key was used before, with another request.
	ErrMismatch = errors.New("idempotency: key reused with another request")
	// ErrUnknown means that the first request had begun to act when it was lost, and nobody knows how far it came.
	ErrUnknown = errors.New("idempotency: outcome of the first request is unknown")
	// ErrNotReplayable means that the first request was completed, but its answer was too long to keep,
	// was streamed, or was erased.
	ErrNotReplayable = errors.New("idempotency: the first answer was not kept")
	// ErrLost means that the claim is no longer its holder's: its lease ran out and another attempt took the key.
	ErrLost = errors.New("idempotency: the claim was lost to another attempt")
	// ErrKey means that a key is missing, too long or malformed.
	ErrKey = errors.New("idempotency: malformed key")
	// ErrScope means that a request names nobody whose key it is.
	ErrScope = errors.New("idempotency: no scope")
	// ErrSpent means that a request tried to run a second command under its one key.
	ErrSpent = errors.New("idempotency: the key of this request is spent on an earlier command")
	// ErrInTransaction is returned by what needs a transaction of its own when ctx carries one.
	ErrInTransaction = errors.New("idempotency: may not take a lease inside a transaction")
	// ErrNotExecuted is returned by a Reconcile function that found that the first attempt did nothing.
	ErrNotExecuted = errors.New("idempotency: the first request did nothing")
	// ErrRetention means that an inbox would forget messages that a topic can still deliver again.
	ErrRetention = errors.New("idempotency: the inbox forgets before the topic does")
)

// errUndone makes a transaction run again in smaller groups: what one part relied on was undone with another.
var errUndone = errors.New("idempotency: a neighbor was undone")
