package outbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/surge-go/surge/outbox/uow"
)

// Poison says what a message that the publisher refuses alone, while it takes others, holds up until it was
// published or became a dead row.
type Poison int

const (
	// BlockKey holds back the later messages of the same topic and key, so that their order is kept.
	BlockKey Poison = iota
	// Skip holds back nothing: later messages of the key overtake it.
	Skip
	// BlockShard holds back every message of the shard, of all topics.
	BlockShard
)

// RelayConfig configures a Relay; the zero value works.
type RelayConfig struct {
	// UnitOfWork is where the relay writes on SQLite: give it the unit of work of the handlers, so that the relay's
	// deletes share their commits instead of competing for the one writer. nil means one of its own. Elsewhere leave it
	// nil; it is not used there: the relay has transactions of its own, since one that waited for slow handlers would
	// lose its leases.
	UnitOfWork *uow.UnitOfWork
	// Owner names the relay in the lease table. "" means a name that nobody else has. A relay with the name of one
	// that was killed takes its leases over at once instead of waiting until they expire, so give a single instance
	// (a service on a SQLite file) its stable name, and never run two relays with one name on one database.
	Owner string
	// Batch bounds, for each topic, the messages that are published and not yet deleted: those that are published again
	// if the relay is killed. A Publish has a quarter of it at most, so that one is under way while what came before
	// is deleted; a small Batch therefore costs a small Publish and a commit for each. 0 means 4,000.
	Batch int
	// Concurrency is how many calls of Publish may be under way at once for a topic, each with the messages of keys of
	// its own; all keep to Batch together, so more than 4 serve only calls that are smaller than a quarter of it, and a
	// Batch of 1 is one call at a time. 1 is for a publisher that must not be called again for a topic before it has
	// returned. 0 means 4; at most [Shards].
	Concurrency int
	// Buffer is the number of messages kept in memory for each topic, at least Batch. 0 means 4,000, or Batch if that is
	// more. A topic that is slower than its writers is read from the table by a scan of its own. Of messages that are
	// retried as many are in memory, of all topics. Bytes are not counted: lower it where messages are large. At most
	// 1,000,000, as Batch.
	Buffer int
	// MaxPoll is how long an idle relay waits before it looks again, unless it is woken. It starts at 10 ms after a
	// message and doubles. 0 means 1 s.
	MaxPoll time.Duration
	// Lease is how long the relay may publish a shard without renewing its lease: the time until another one takes
	// over when it dies. The context of messages that are being published ends before that, if it was not renewed.
	// 0 means 6 s; at least 300 ms, at most a day.
	Lease time.Duration
	// MaxTransaction is longer than any transaction that publishes, on MySQL and MariaDB: for so long the relay looks
	// back for messages that commit after later ones. 0 means 1 minute. PostgreSQL and SQLite need no such bound.
	MaxTransaction time.Duration
	// Attempts is how often a message is tried that the publisher refuses, before it becomes a dead row. 0 means 10; it
	// is 2 at least, once where it stands and once from the retry table. Tries together with others do not count.
	Attempts int
	// Backoff is the first pause after a failure; it doubles up to MaxBackoff. 0 means 100 ms.
	Backoff time.Duration
	// MaxBackoff bounds the pauses. 0 means 15 s.
	MaxBackoff time.Duration
	// Poison gives the policy of a topic; it is asked while the relay holds its lock, and must not use the relay. nil
	// means BlockKey for all, and so does what is no policy.
	Poison func(topic string) Poison
	// Grace is how long Run waits, once its context has ended, for a Publish under way; then the context of its
	// messages ends and it waits as long again, and as long for the database to delete what was published. 0 means 10 s.
	Grace time.Duration
	// StuckAfter is how long messages may fail to leave before Healthy complains. 0 means 30 s.
	StuckAfter time.Duration
	// Archive is how long published messages are kept in the table outbox_archive, where [Outbox.Archived] reads them.
	// They move in the transaction that deletes them. 0 means that they are not kept; math.MaxInt64 is for ever. The
	// archive is partitioned by day on PostgreSQL, MySQL and MariaDB: the relay creates partitions ahead and drops them
	// once their last message is as old as this, so it must be allowed to create tables (ALTER on MySQL). On SQLite
	// rows are deleted. All relays of a database should have the same Archive.
	Archive time.Duration
	// KeepSettled is how long it stays on record who replayed or discarded a dead message, and why; its contents are
	// gone by then. 0 means 90 days.
	KeepSettled time.Duration
	// KeepDead is how long a dead message stays that nobody replays or discards; then it is deleted for good. 0 means
	// for ever: nothing is lost because nobody looked. Set it where the law bounds how long personal data may stay.
	KeepDead time.Duration
	// Listen, if not nil, calls wake whenever another process may have published, until ctx ends. It is called again
	// with backoff when it returns. It only saves time: polling finds everything.
	Listen func(ctx context.Context, wake func()) error
	// Logger hears of failures and of leases, partly while the relay holds its lock: its handler must not use the relay.
	// nil discards.
	Logger *slog.Logger
}

// Validate joins every fault of the configuration.
func (c RelayConfig) Validate() error {
	var faults []error
	for _, f := range []struct {
		name  string
		value int
	}{
		{"Batch", c.Batch}, {"Concurrency", c.Concurrency}, {"Buffer", c.Buffer}, {"Attempts", c.Attempts},
	} {
		if f.value < 0 {
			faults = append(faults, fmt.Errorf("outbox: RelayConfig.%s is %d, it may not be negative", f.name, f.value))
		}
	}
	for _, f := range []struct {
		name  string
		value time.Duration
	}{
		{"MaxPoll", c.MaxPoll},
		{"MaxTransaction", c.MaxTransaction},
		{"Backoff", c.Backoff},
		{"MaxBackoff", c.MaxBackoff},
		{"Grace", c.Grace},
		{"StuckAfter", c.StuckAfter},
		{"Archive", c.Archive},
		{"KeepSettled", c.KeepSettled},
		{"KeepDead", c.KeepDead},
	} {
		if f.value < 0 {
			faults = append(faults, fmt.Errorf("outbox: RelayConfig.%s is %v, it may not be negative", f.name, f.value))
		}
	}
	for _, f := range []struct {
		name  string
		value int
	}{{"Batch", c.Batch}, {"Buffer", c.Buffer}} {
		if f.value > maxBuffer {
			faults = append(faults, fmt.Errorf("outbox: RelayConfig.%s is %d, at most %d", f.name, f.value, maxBuffer))
		}
	}
	if c.Concurrency > Shards {
		faults = append(faults, fmt.Errorf("outbox: RelayConfig.Concurrency is %d, at most %d", c.Concurrency, Shards))
	}
	if c.Lease != 0 && (c.Lease < minLease || c.Lease > day) {
		faults = append(faults, fmt.Errorf("outbox: RelayConfig.Lease is %v, want %v to %v", c.Lease, minLease, day))
	}
	if len(c.Owner) > maxOwner {
		faults = append(faults, fmt.Errorf("outbox: RelayConfig.Owner has %d bytes, at most %d", len(c.Owner), maxOwner))
	} else if err := storable(c.Owner); err != nil {
		faults = append(faults, fmt.Errorf("outbox: RelayConfig.Owner %w", err))
	}
	return errors.Join(faults...)
}

const (
	minLease = 300 * time.Millisecond
	minPoll  = 10 * time.Millisecond
	maxOwner = 200

	maxBuffer = 1_000_000
)

func (c RelayConfig) withDefaults() RelayConfig {
	c.Batch = or(c.Batch, 4000)
	c.Concurrency = or(c.Concurrency, 4)
	c.Buffer = max(or(c.Buffer, 4000), c.Batch)
	c.Attempts = max(or(c.Attempts, 10), 2)
	c.MaxPoll = max(or(c.MaxPoll, time.Second), minPoll)
	c.Lease = or(c.Lease, 6*time.Second)
	c.MaxTransaction = or(c.MaxTransaction, time.Minute)
	c.Backoff = or(c.Backoff, 100*time.Millisecond)
	c.MaxBackoff = max(or(c.MaxBackoff, 15*time.Second), c.Backoff)
	c.Grace = or(c.Grace, 10*time.Second)
	c.StuckAfter = or(c.StuckAfter, 30*time.Second)
	c.KeepSettled = or(c.KeepSettled, 90*day)
	if c.Poison == nil {
		c.Poison = func(string) Poison { return BlockKey }
	}
	if c.Owner == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "unknown"
		}
		c.Owner = fmt.Sprintf("%.100s-%d-%s", host, os.Getpid(), rand.Text()[:8])
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// perCall is how many messages a Publish has at most.
func (c RelayConfig) perCall() int { return (c.Batch + 3) / 4 }

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}
