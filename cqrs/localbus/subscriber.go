package localbus

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"
)

type subscriber struct {
	bus   *Bus
	group string

	mu     sync.Mutex
	subs   []*subscription
	closed bool
}

// Subscribe starts reading topic. The channel hands out message after message, up to the window of
// each partition, without waiting for acks; it is closed when ctx ends or the subscriber is closed.
func (s *subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	sub, err := s.bus.subscribe(ctx, s, topic)
	if err != nil {
		return nil, err
	}
	s.subs = append(s.subs, sub)
	return sub.out, nil
}

// drop forgets a subscription that has ended.
func (s *subscriber) drop(sub *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs = slices.DeleteFunc(slices.Clone(s.subs), func(o *subscription) bool { return o == sub })
}

// SubscribeInitialize declares that the group reads topic.
func (s *subscriber) SubscribeInitialize(topic string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.bus.Declare(s.group, topic)
	return nil
}

// Close ends the subscriptions and returns once their channels are closed. Acks of messages already
// received still count for Config.Drain.
func (s *subscriber) Close() error {
	s.mu.Lock()
	s.closed = true
	subs := s.subs
	s.subs = nil
	s.mu.Unlock()
	for _, sub := range subs {
		sub.leave()
	}
	return nil
}

// Lag is [Bus.Lag] of the subscriber's group, in the shape that other buses have too.
func (s *subscriber) Lag(context.Context) (map[string]int64, error) { return s.bus.Lag(s.group), nil }

// A subscription is one channel of a reader.
type subscription struct {
	by      *subscriber
	reader  *reader
	ctx     context.Context // whose values its messages have
	cancel  context.CancelFunc
	out     chan *message.Message
	senders sync.WaitGroup // partitions that may send to out
	left    atomic.Bool
	once    sync.Once
}

func (b *Bus) subscribe(ctx context.Context, by *subscriber, topic string) (*subscription, error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, ErrClosed
	}
	r := b.reader(by.group, topic)
	s := &subscription{by: by, reader: r, out: make(chan *message.Message, min(b.cfg.Window, outBuffer)-1)}
	s.ctx, s.cancel = context.WithCancel(ctx)
	r.join(s)
	b.announce()
	b.mu.Unlock()
	r.kick()
	context.AfterFunc(s.ctx, s.leave)
	return s, nil
}

// leave ends the subscription: it closes the channel and takes back what nobody has read from it.
func (s *subscription) leave() {
	s.once.Do(func() {
		s.cancel()
		b := s.reader.bus
		b.mu.Lock()
		s.reader.leave(s)
		s.left.Store(true)
		b.announce()
		b.mu.Unlock()
		s.reader.kick()
		s.senders.Wait()
		close(s.out)
		for m := range s.out {
			m.Nack()
		}
		s.by.drop(s)
	})
}
