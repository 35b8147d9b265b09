package idempotency

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// DefaultLease is how long a claim lasts without being renewed.
const DefaultLease = 30 * time.Second

// A State is what [Store.Begin] found.
type State int

const (
	// Acquired means that the key is the caller's: it runs, and then completes or releases it.
	Acquired State = iota + 1
	// Replay means that the first request was completed; Claim.Result is its answer.
	Replay
	// InFlight means that another holder's lease is alive, or that its transaction is open.
	InFlight
	// Mismatch means that the key belongs to another request.
	Mismatch
	// Unknown means that an attempt that had begun to act was lost. Only a ClaimRequest with Takeover gets the key.
	Unknown
)

// String returns the state's name.
func (s State) String() string {
	switch s {
	case Acquired:
		return "acquired"
	case Replay:
		return "replay"
	case InFlight:
		return "in flight"
	case Mismatch:
		return "mismatch"
	case Unknown:
		return "unknown"
	}
	return fmt.Sprintf("State(%d)", int(s))
}

// err is what a caller who wanted to run is told; nil for Acquired and Replay.
func (s State) err() error {
	switch s {
	case InFlight:
		return ErrInFlight
	case Mismatch:
		return ErrMismatch
	case Unknown:
		return ErrUnknown
	}
	return nil
}

// A ClaimRequest asks for a key.
type ClaimRequest struct {
	Key         Key
	Fingerprint Fingerprint
	// Lease is how long the claim lasts unless it is renewed, by the database's clock. 0 means [DefaultLease];
	// it is rounded up to milliseconds.
	Lease time.Duration
	// Started says that the holder may act from the first moment on, so a claim that is lost is Unknown at once.
	// Without it a claim that is lost before Renew said Started is simply free again.
	Started bool
	// Takeover acquires the key also when the outcome of the attempt before is unknown.
	Takeover bool
}

func (r ClaimRequest) withDefaults() ClaimRequest {
	if r.Lease <= 0 {
		r.Lease = DefaultLease
	}
	return r
}

// A Claim is the answer of [Store.Begin] and, if it was acquired, the holder's title in the other methods.
type Claim struct {
	Key   Key
	State State
	// Token grows with each attempt that takes the key over. Give it to what the request changes elsewhere,
	// so that it can refuse an older one (a fencing token).
	Token int64
	// Lease is how long Renew extends the claim.
	Lease time.Duration
	// Started says that something outside the database may have happened. Set before the first effect, by Renew.
	Started bool
	// Recovered says that an earlier attempt under this key was lost after it had begun to act.
	Recovered bool
	// Points are the results of the steps that are done, by name.
	Points map[string]json.RawMessage
	// Result is the stored answer; only with State Replay.
	Result Result
}

// A Result is a stored answer: of an HTTP handler, or of a function, when only Body is used.
type Result struct {
	Status int         // 0 for functions
	Header http.Header // nil for functions
	Body   []byte
	// Lost says that the request was completed but its answer is not kept: streamed, too long or erased.
	Lost bool
}

// replayable reports whether an answer is kept, and is of the kind that is asked for: an endpoint that was a function
// may have become a handler since, or the other way round.
func (r Result) replayable(http bool) bool { return !r.Lost && (r.Status != 0) == http }

// A Store keeps keys. Each method is atomic and durable by itself, and safe for concurrent use.
// Methods that take a Claim compare its token: they return [ErrLost] when the key went to another attempt.
// Package idempotencytest has a conformance suite. *GormStore is a Store.
type Store interface {
	// Begin claims a key, or says why not. A stored fingerprint that differs is a Mismatch in any state.
	Begin(ctx context.Context, r ClaimRequest) (Claim, error)
	// Renew extends the claim by c.Lease and stores c.Started (which never becomes false again) and, unless it
	// is nil, c.Points.
	Renew(ctx context.Context, c Claim) error
	// Complete stores the answer. Repeating it is no error.
	Complete(ctx context.Context, c Claim, r Result) error
	// Release gives the key up: it is free again, or Unknown if c.Started.
	Release(ctx context.Context, c Claim) error
	// Purge forgets at most limit keys whose retention is over, and returns how many. A key whose lease is alive
	// is never among them.
	Purge(ctx context.Context, limit int) (int, error)
}
