package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
)

// A Bus publishes to and consumes from one Kafka cluster. All methods are safe for concurrent use.
// It connects when first used, and again whenever a connection is lost.
type Bus struct {
	brokers []string
	cfg     Config

	mu      sync.Mutex
	closed  bool
	closers map[interface{ Close() error }]struct{}
}

// New makes a bus. It checks the configuration, and neither connects nor starts anything.
func New(brokers []string, cfg Config) (*Bus, error) {
	if len(brokers) == 0 {
		return nil, errors.New("kafkabus: no brokers given")
	}
	if i := slices.Index(brokers, ""); i >= 0 {
		return nil, fmt.Errorf("kafkabus: brokers[%d] is empty", i)
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Bus{
		brokers: slices.Clone(brokers),
		cfg:     cfg.withDefaults(),
		closers: make(map[interface{ Close() error }]struct{}),
	}, nil
}

// Publisher returns a publisher with a connection of its own; close it, or the bus, when done.
//
// Its Publish returns nil once all in-sync replicas have every message, else a [*PublishError].
// The context of the first message bounds the wait; a send cannot be recalled, so what was under way
// then may still arrive, late and twice. Messages of one key keep their order also when Publish fails
// and is repeated: after a failure the connection is replaced, and until a batch has succeeded there is
// at most one message per key on its way. A message over sarama's Producer.MaxMessageBytes holds back those of
// its key that come after it. One that only the broker refuses, as its topic's max.message.bytes is lower,
// cannot: what the same call sent behind it is in Kafka already.
func (b *Bus) Publisher() message.Publisher {
	p := &publisher{bus: b, maxSize: b.cfg.producer().Producer.MaxMessageBytes}
	if !b.adopt(p) {
		p.closed = true
	}
	return p
}

// Subscriber returns one member of group, which reads all topics it subscribes to. It joins the group
// shortly after its first Subscribe. It returns [ErrClosed] once the bus is closed. Beside message.Subscriber
// it implements message.SubscribeInitializer, which creates a topic, and
//
//	Lag(ctx) (map[string]int64, error)               // of the topics it subscribes to
//	Retention(ctx, topic string) (time.Duration, error)
//	Check(ctx, handled bool, topics ...string) error
//
// Check returns a [*LostError] if the group cannot go on where it was; handled says that the group has handled
// messages before, as its inbox remembers, and holds from then on. Without Check a group that has no offsets is
// taken for a new one, until this member has seen some. What Check finds the member finds too when it joins; Check
// says so beforehand. Where all offsets are missing it looks ten times, ReconnectRetrySleep apart: a broker that has
// just taken the group over may not know of them yet.
func (b *Bus) Subscriber(group string) (message.Subscriber, error) {
	return b.SubscriberAt(group, nil)
}

// SubscriberAt is [Bus.Subscriber] for a group that keeps its own positions, such as the checkpoints of a read
// model. Whenever a partition is assigned to the member, position says where it begins to read: at the offset of
// the first record to read, [Oldest] or [Newest]; not ok means the committed offset. An error, or a panic, keeps the
// member from reading anything, and it is asked again soon. It is called for one partition after the other.
func (b *Bus) SubscriberAt(
	group string, position func(ctx context.Context, topic string, partition int32) (offset int64, ok bool, err error),
) (message.Subscriber, error) {
	if group == "" {
		return nil, errors.New("kafkabus: group is empty")
	}
	s := newSubscriber(b, group, position)
	if !b.adopt(s) {
		return nil, ErrClosed
	}
	return s, nil
}

// Close closes all publishers and subscribers, subscribers as their own Close does. Closing twice is harmless.
func (b *Bus) Close() error {
	b.mu.Lock()
	b.closed = true
	closers := make([]interface{ Close() error }, 0, len(b.closers))
	for c := range b.closers {
		closers = append(closers, c)
	}
	b.mu.Unlock()
	errs := make([]error, len(closers))
	var wg sync.WaitGroup
	for i, c := range closers {
		wg.Go(func() { errs[i] = c.Close() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (b *Bus) adopt(c interface{ Close() error }) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.closers[c] = struct{}{}
	}
	return !b.closed
}

func (b *Bus) disown(c interface{ Close() error }) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.closers, c)
}
