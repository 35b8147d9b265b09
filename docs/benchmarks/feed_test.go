package benchmarks_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// A feed is a subscriber in memory that hands out messages without waiting for acks, 1,024 at most on the way.
type feed struct {
	mu     sync.Mutex
	topics map[string]chan *message.Message
}

func newFeed() *feed { return &feed{topics: map[string]chan *message.Message{}} }

// Subscribe makes a feed a message.Subscriber.
func (f *feed) Subscribe(_ context.Context, topic string) (<-chan *message.Message, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.topics[topic] = make(chan *message.Message)
	return f.topics[topic], nil
}

// Close makes a feed a message.Subscriber.
func (f *feed) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ch := range f.topics {
		close(ch)
	}
	clear(f.topics)
	return nil
}

// deliver returns how long it took until all messages were acknowledged.
func (f *feed) deliver(b *testing.B, topic string, msgs []*message.Message) time.Duration {
	b.Helper()
	f.mu.Lock()
	to := f.topics[topic]
	f.mu.Unlock()
	if to == nil {
		b.Fatalf("nobody reads %s", topic)
	}
	window := make(chan *message.Message, 1024)
	limit := time.After(2 * time.Minute)
	began := time.Now()
	go func() {
		defer close(window)
		for _, m := range msgs {
			window <- m
			to <- m
		}
	}()
	for m := range window {
		select {
		case <-m.Acked():
		case <-m.Nacked():
			b.Fatalf("message %s is refused", m.UUID)
		case <-limit:
			b.Fatalf("message %s is not acknowledged", m.UUID)
		}
	}
	return time.Since(began)
}
