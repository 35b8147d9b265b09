package effect

import (
	"context"
	"errors"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// ErrLost is returned by a [Store] for what somebody else has taken over: the runner's lease had run out.
var ErrLost = errors.New("effect: someone else has taken over")

// A Record is an intent at rest, and all that is needed to carry it out.
type Record struct {
	ID       string        // unique; made when the intent is recorded (UUIDv7)
	Name     string        // the effect's
	Key      string        // the provider's
	Owner    string        // the runner that holds it; "" means none
	Envelope cqrs.Envelope // of the command, for the reply
	Command  []byte        // JSON
	Intent   []byte        // JSON
	Attempts int           // calls that count
	Doubt    bool          // the key may have reached the provider
	Keep     time.Duration // how much longer the provider remembers the key

	expires time.Time // Keep by this process's monotonic clock
}

// A Postponement says why an intent was not settled, and when to go on.
type Postponement struct {
	Delay    time.Duration // by the database's clock; 0 or less means at once
	Attempts int           // replaces the record's
	Doubt    bool          // replaces the record's
	Park     bool          // leave it to an operator
	Error    string        // the last error, for people
}

// A Store keeps intents. An intent is held by its owner as long as the owner beats; an intent without a live
// owner that is due can be claimed. Times are those of the database's clock. *gormstore.Effects is one.
type Store interface {
	// Add records an intent in the transaction in ctx and calls committed once that has committed.
	// An owner in the record holds it from the start.
	Add(ctx context.Context, rec *Record, committed func()) error
	// Claim lets owner hold at most limit intents of the named effects that are due and that no live owner
	// holds, the longest due first, and returns them as they were before, so that Doubt tells what was known.
	// From then on they are stored as in doubt.
	Claim(ctx context.Context, owner string, names []string, limit int) ([]*Record, error)
	// Settle runs apply in a transaction that may be shared and removes the intent in the same transaction.
	// apply may run more than once. It returns apply's error, and ErrLost if the record's owner does not
	// hold the intent (any more).
	Settle(ctx context.Context, rec *Record, apply func(ctx context.Context) error) error
	// Postpone gives an intent back, or parks it, unless the owner does not hold it any more, or holds it anew, which
	// its Attempts tell: then ErrLost.
	Postpone(ctx context.Context, rec *Record, p Postponement) error
	// Beat keeps owner alive for lease. It returns ErrLost if an earlier lease of the owner has run out, which must be
	// remembered for longer than a runner may be held up between two beats.
	// An owner is name#incarnation, at most 100 bytes: its first beat ends the leases of the other incarnations
	// of the name, unless the name is empty. A lease of 0 or less ends the owner and gives back all that it holds.
	// It returns what the owner holds and goes on holding, of which only ID, Name, Owner and Attempts need be there.
	Beat(ctx context.Context, owner string, lease time.Duration) (held []*Record, err error)
}
