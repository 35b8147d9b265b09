package localbus

import (
	"errors"
	"slices"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
)

// A Bus carries messages between the groups of one process. All methods are safe for concurrent use.
// It keeps nothing after Publish has returned; put an outbox before it and nothing is lost in a crash.
type Bus struct {
	cfg     Config
	workers sync.WaitGroup // running partitions; grows only under mu while the bus is open

	mu      sync.RWMutex
	topics  map[string][]*reader // never empty slices
	silent  map[string]struct{}  // groups known by name alone
	changed chan struct{}        // closed and replaced when readers or their subscriptions change
	closed  bool
}

// New makes a bus. It starts nothing: goroutines exist only while messages are on their way.
func New(cfg Config) *Bus {
	b := &Bus{
		cfg:     cfg.withDefaults(),
		topics:  make(map[string][]*reader),
		silent:  make(map[string]struct{}),
		changed: make(chan struct{}),
	}
	for _, g := range cfg.Groups {
		b.silent[g] = struct{}{}
	}
	return b
}

// Publisher returns a publisher. Its Publish returns nil once every group that reads the topic has
// acked every message; see the package documentation for everything else. Its Close ends this
// publisher alone, not the bus.
func (b *Bus) Publisher() message.Publisher { return &publisher{bus: b} }

// Subscriber returns a subscriber of group. Subscribers of one group share its partitions.
// Beside message.Subscriber it implements message.SubscribeInitializer, which declares that the group
// reads a topic, and Lag(ctx) (map[string]int64, error), see [Bus.Lag]. It returns [ErrClosed] once
// the bus is closed.
func (b *Bus) Subscriber(group string) (message.Subscriber, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	switch {
	case group == "":
		return nil, errors.New("localbus: group is empty")
	case b.closed:
		return nil, ErrClosed
	}
	return &subscriber{bus: b, group: group}, nil
}

// Declare says that group reads topics, before it subscribes: publishing to them waits for it, up to
// Config.Wait. A group stays declared when its subscribers leave; [Bus.Forget] ends it.
func (b *Bus) Declare(group string, topics ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range topics {
		b.reader(group, t)
	}
	b.announce()
}

// Forget ends group: nobody waits for it any more and what it has not acked counts as acked.
// Its subscriptions end. Use it for groups that come and go, such as a page that shows live events.
func (b *Bus) Forget(group string) {
	b.mu.Lock()
	delete(b.silent, group)
	var gone []*reader
	for t, readers := range b.topics {
		i := slices.IndexFunc(readers, func(r *reader) bool { return r.group == group })
		if i < 0 {
			continue
		}
		gone = append(gone, readers[i])
		if b.topics[t] = slices.Concat(readers[:i], readers[i+1:]); len(b.topics[t]) == 0 {
			delete(b.topics, t)
		}
	}
	b.announce()
	b.mu.Unlock()
	for _, r := range gone {
		r.forget()
	}
}

// Lag returns, for each topic that group reads, how many messages wait for its ack.
// What publishers have yet to hand over, as rows of an outbox, is not counted.
func (b *Bus) Lag(group string) map[string]int64 {
	b.mu.RLock()
	defer b.mu.RUnlock()
	lag := make(map[string]int64)
	for t, readers := range b.topics {
		for _, r := range readers {
			if r.group == group {
				lag[t] = r.depth.Load()
			}
		}
	}
	return lag
}

// Close ends all subscriptions and makes Publish calls under way return [ErrClosed]. It returns once
// every goroutine of the bus has ended. Closing twice is harmless.
func (b *Bus) Close() error {
	b.mu.Lock()
	b.closed = true
	var readers []*reader
	for _, rs := range b.topics {
		readers = append(readers, rs...)
	}
	b.announce()
	b.mu.Unlock()
	for _, r := range readers {
		r.close()
	}
	b.workers.Wait()
	return nil
}

// reader finds or adds the reader of a topic for a group; the caller holds mu.
func (b *Bus) reader(group, topic string) *reader {
	delete(b.silent, group)
	for _, r := range b.topics[topic] {
		if r.group == group {
			return r
		}
	}
	r := newReader(b, group, topic)
	b.topics[topic] = append(slices.Clip(b.topics[topic]), r)
	return r
}

// announce wakes publishers that wait for a group; the caller holds mu.
func (b *Bus) announce() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// missing says whom a publisher to a topic must wait for, if anybody; the caller holds mu.
func (b *Bus) missing(readers []*reader) (group string, ok bool) {
	for g := range b.silent {
		return g, true
	}
	for _, r := range readers {
		if len(r.subs) == 0 {
			return r.group, true
		}
	}
	return "", false
}
