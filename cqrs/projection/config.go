package projection

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// Bus is where events come from: *kafkabus.Bus, *localbus.Bus, or any Watermill subscriber. What it can do
// beyond that is found by its methods, as those two have them:
//
//	SubscriberAt(group string, position func(ctx context.Context, topic string, partition int32) (
//		offset int64, ok bool, err error)) (message.Subscriber, error)
//		its messages have a [cqrs.Position], and it asks where to begin whenever it is assigned a partition
//		(-2 means with the oldest message that is there)
//	Earliest(ctx context.Context, topic string) (map[int32]int64, error)  the first offset that is there
//	Latest(ctx context.Context, topic string) (map[int32]int64, error)    the next offset that will be
//	Compacted(ctx context.Context, topic string) (bool, error)            and
//	Retention(ctx context.Context, topic string) (time.Duration, error)   for [FromTopics]; negative: unlimited
//	Lag(group string) map[string]int64                                    messages in flight, without positions
//	Declare(group string, topics ...string)                               Publish waits for the group
//	Forget(group string)                                                  and no more
type Bus interface {
	Subscriber(group string) (message.Subscriber, error)
}

type (
	positioned interface {
		SubscriberAt(
			group string, position func(ctx context.Context, topic string, partition int32) (int64, bool, error),
		) (message.Subscriber, error)
	}
	bounded interface {
		Earliest(ctx context.Context, topic string) (map[int32]int64, error)
		Latest(ctx context.Context, topic string) (map[int32]int64, error)
	}
	lasting interface {
		Earliest(ctx context.Context, topic string) (map[int32]int64, error)
		Compacted(ctx context.Context, topic string) (bool, error)
		Retention(ctx context.Context, topic string) (time.Duration, error)
	}
	lagging interface {
		Lag(group string) map[string]int64
	}
	declaring interface {
		Declare(group string, topics ...string)
	}
	forgetting interface{ Forget(group string) }
)

// oldest is the offset by which a bus is asked to begin with what it still has.
const oldest = -2

// Config configures a [Projection]. It needs an Inbox, or Guarded.
type Config struct {
	// Version of the model: its tables and what apply functions write. 0 means 1. A program with a greater version
	// than the live model's has a shadow built when it runs, and needs a Source for it; see the package's text.
	Version int
	// Source is what a generation is built from before it follows its topics. nil: the first generation begins with
	// what the bus still has, and there is no rebuild.
	Source Source
	// Inbox remembers which messages are applied: *idempotency.Inbox. One that has a method
	// Seen(ctx, group, ids) ([]bool, error) lets [Projection.Wait] wait for messages that another process applies.
	Inbox cqrs.Inbox
	// Guarded says that apply functions ignore what they have applied before, by a version in each row. Then the
	// Inbox may be nil.
	Guarded bool

	// Create makes the tables of the generation in ctx, Drop removes what it has, a while after it was retired.
	// Both run outside any transaction, and may run again, at the same time in several processes. nil does nothing.
	Create, Drop func(ctx context.Context) error
	// DropAfter is how long a retired generation is kept, for queries that still read it. 0 means 1 min.
	DropAfter time.Duration

	// MaxBatch is how many messages are applied in one transaction, at most. 0 means 256; it may be 10,000.
	MaxBatch int
	// KeyOrder keeps the order of messages per key only: within a batch, events of one type are handed over
	// together although others came between them. Without it they are applied in the partition's order.
	KeyOrder bool
	// Retry says when an event that cannot be applied is tried again. Attempts counts only with DeadLetters.
	// The zero value means 5 tries, 100 ms to 1 min. An error may ask for a time of its own: [cqrs.Later], or by a
	// method RetryAfter() time.Duration for an hour at most.
	Retry cqrs.Retry
	// DeadLetters takes events that cannot be applied, after which the partition goes on without them and the model
	// is wrong about them until it is rebuilt. nil: the partition stands still until they can be applied.
	DeadLetters cqrs.DeadLetters

	// Poll is how often other processes' doings are looked for. 0 means 500 ms.
	Poll time.Duration
	// HoldFor bounds how long the live model may wait for its shadow to get level before a swap. 0 means 2 s.
	HoldFor time.Duration
	// Takeover is after how long without progress another process loads a generation whose snapshot was being
	// loaded. 0 means 30 s.
	Takeover time.Duration
	Logger   *slog.Logger // nil discards
}

func (c Config) withDefaults() Config {
	c.Version = orElse(c.Version, 1)
	c.DropAfter = orElse(c.DropAfter, time.Minute)
	c.MaxBatch = orElse(c.MaxBatch, 256)
	c.Poll = orElse(c.Poll, 500*time.Millisecond)
	c.HoldFor = orElse(c.HoldFor, 2*time.Second)
	c.Takeover = orElse(c.Takeover, 30*time.Second)
	c.Retry.Attempts = orElse(c.Retry.Attempts, 5)
	c.Retry.Min = orElse(c.Retry.Min, 100*time.Millisecond)
	c.Retry.Max = orElse(c.Retry.Max, max(c.Retry.Min, time.Minute))
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func orElse[N int | time.Duration](n, otherwise N) N {
	if n == 0 {
		return otherwise
	}
	return n
}

const maxBatch = 10_000

// Validate joins every fault.
func (c Config) Validate() error {
	var faults []error
	bad := func(wrong bool, format string, a ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf("projection: Config."+format, a...))
		}
	}
	bad(c.Version < 0, "Version is %d; the first is 1", c.Version)
	bad(c.MaxBatch < 0 || c.MaxBatch > maxBatch, "MaxBatch is %d; 1 to %d, or 0 for the default", c.MaxBatch, maxBatch)
	bad(c.DropAfter < 0, "DropAfter is %v; at least 0", c.DropAfter)
	bad(c.Poll < 0, "Poll is %v; more than 0, or 0 for the default", c.Poll)
	bad(c.HoldFor < 0, "HoldFor is %v; more than 0, or 0 for the default", c.HoldFor)
	bad(c.Takeover < 0, "Takeover is %v; more than 0, or 0 for the default", c.Takeover)
	bad(c.Retry.Attempts < 0, "Retry.Attempts is %d; at least 1, or 0 for the default", c.Retry.Attempts)
	bad(c.Retry.Min < 0 || c.Retry.Max < 0, "Retry is %v to %v; at least 0", c.Retry.Min, c.Retry.Max)
	bad(c.Retry.Max > 0 && c.Retry.Max < c.Retry.Min, "Retry.Max is %v; at least Min, %v", c.Retry.Max, c.Retry.Min)
	bad(c.Inbox == nil && !c.Guarded, "Inbox is nil and Guarded is not set: a message that comes twice would count twice")
	return errors.Join(faults...)
}
