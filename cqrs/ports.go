package cqrs

import (
	"context"
	"time"
)

// UnitOfWork runs fn in a transaction that callers may share. A nested Do joins the transaction in ctx, and an
// error of its fn undoes the inner part only. fn may run more than once. *uow.UnitOfWork is one.
type UnitOfWork interface {
	Do(ctx context.Context, fn func(ctx context.Context) error) error
}

// Inbox remembers which messages a group has taken responsibility for. It is called inside the unit of work,
// so that what it remembers commits with the work. *idempotency.Inbox is one.
type Inbox interface {
	// Claim notes ids, which are sorted and distinct, and reports which of them are new to the group.
	Claim(ctx context.Context, group string, ids []string) (fresh []bool, err error)
	// Unclaim forgets ids, as if they had never come.
	Unclaim(ctx context.Context, group string, ids []string) error
}

// Keys replays the result of a request that came before. *idempotency.GormStore is one.
type Keys interface {
	// Once calls run, and stores what result points to when the transaction commits. If ctx carries
	// a key that was completed before, it fills result from the store and does not call run. If ctx carries
	// no key it only calls run. It is called inside the unit of work, if there is one.
	Once(ctx context.Context, result any, run func(ctx context.Context) error) error
}

// A Failure is one run of a message that failed.
type Failure struct {
	At    time.Time `json:"at"` // this process's clock, for people
	Error string    `json:"error"`
}

// A Record is a message at rest: all that is needed to run it again, and to explain why it rests.
type Record struct {
	Group    string // the consumer group
	ID       string // the message's; with Group it is unique in each store
	Queue    string // what keeps order: topic and key, or the ID of a message without key. At most 200 bytes
	Topic    string // it came from
	Type     string // its name in the catalog
	Key      string // may be ""
	Payload  []byte
	Metadata map[string]string // all headers
	Attempt  int               // runs that failed and count
	Failures []Failure         // the last of them, oldest first; at most 10
}

// A Parked message waits in a queue to be run again, or behind one that does.
type Parked struct {
	Record
	// Delay until the message is due, counted by the database's clock from when it is written.
	// 0 or less means at once. Only a queue's head is ever due; what is behind it waits for it.
	Delay time.Duration
	// Blocked messages are never due: a dead letter that holds up its queue until it is replayed or discarded.
	Blocked bool
	// Dead says that a dead letter of this ID exists and is to be resolved when the message has run.
	Dead bool
	// Lease is filled in by Lease and checked by Reschedule and Consume; "" is not checked.
	Lease string
}

// Parking keeps messages that wait, durably, in queues. A queue is parked as long as it has messages.
// All methods are called inside the unit of work. *gormstore.Parking is one.
type Parking interface {
	// Parked reports which of the queues, distinct and sorted, have messages.
	Parked(ctx context.Context, group string, queues []string) ([]bool, error)
	// Append puts messages at the end of their queues, in this order. One whose group and ID are there is ignored.
	Append(ctx context.Context, messages []*Parked) error
	// Lease returns heads of queues that are due by the database's clock and leased by nobody, at most limit,
	// and leases them for ttl. A store may let messages of the same queue follow their head, in order;
	// they are under the same lease.
	Lease(ctx context.Context, group string, limit int, ttl time.Duration) ([]*Parked, error)
	// Reschedule rewrites Attempt, Failures, Blocked, Dead, Payload, Metadata and the due time of messages that
	// are there (found by group and ID), and ends their leases. It returns ErrLeaseLost, having written
	// nothing that commits, if a lease that is given is not the row's.
	Reschedule(ctx context.Context, messages []*Parked) error
	// Consume removes messages. The next of each queue becomes its head, and due unless it is blocked or
	// has a delay of its own. It returns ErrLeaseLost like Reschedule.
	Consume(ctx context.Context, messages []*Parked) error
}

// A DeadLetter is a message that a group gave up on.
type DeadLetter struct {
	Record
	Reason   string    // the last error
	Blocking bool      // its parked twin holds up the queue
	DiedAt   time.Time // this process's clock
}

// DeadLetters keeps what a group gave up on. All methods are called inside the unit of work.
// *gormstore.DeadLetters is one; listing, editing and discarding are its own.
type DeadLetters interface {
	// Put stores letters as dead. Group and ID are unique: one that was being replayed is dead again,
	// one that is dead stays as it is.
	Put(ctx context.Context, letters []*DeadLetter) error
	// Get returns those of the letters that are dead or being replayed.
	Get(ctx context.Context, group string, ids []string) ([]*DeadLetter, error)
	// Replay turns dead letters into letters being replayed (compare-and-set) and returns those that it turned.
	Replay(ctx context.Context, group string, ids []string) ([]*DeadLetter, error)
	// Resolve ends letters, dead or being replayed, that have run or are discarded. Unknown ids are ignored.
	Resolve(ctx context.Context, group string, ids []string) error
}

// Crashes finds the message that kills the process whenever it runs, by an exit, a fatal error or all of its memory:
// signs of life show that a process of the group has died, and what runs after that is noted before it does.
// All methods are called inside the unit of work. *gormstore.Crashes is one.
type Crashes interface {
	// Beat notes that run, one Run of a processor, lives for ttl more by the database's clock, and returns the
	// group's other runs that have not left.
	Beat(ctx context.Context, group, run string, ttl time.Duration) ([]Peer, error)
	// Leave forgets run, which has stopped in an orderly way. It may forget the group's runs that have expired so
	// long ago that all others have seen it, but no other: a death would look like an orderly end.
	Leave(ctx context.Context, group, run string) error
	// Begun returns how often messages, whose ids are sorted and distinct, have begun to run without an end.
	Begun(ctx context.Context, group string, ids []string) ([]int, error)
	// Begin notes that messages begin to run.
	Begin(ctx context.Context, group string, ids []string) error
	// End forgets that messages have begun, in the transaction that decides about them.
	End(ctx context.Context, group string, ids []string) error
}

// A Peer is another run of the group.
type Peer struct {
	Run     string
	Beats   int64 // how often it has said that it lives
	Expired bool  // it has not for longer than it should: its process has died, or cannot reach the database
}
