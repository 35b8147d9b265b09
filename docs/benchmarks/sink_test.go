package benchmarks_test

import (
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// keys is the number of keys that messages of a drain have; each is an order of its own.
const keys = 1_000

// A sink is a publisher that only remembers which messages came. The first want of them stop the clock.
type sink struct {
	want int
	full chan struct{}

	mu  sync.Mutex
	ids []string
}

func newSink(want int) *sink {
	return &sink{want: want, ids: make([]string, 0, want), full: make(chan struct{})}
}

// Publish makes a sink a message.Publisher.
func (s *sink) Publish(_ string, msgs ...*message.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range msgs {
		s.add(m.UUID)
	}
	return nil
}

// Close makes a sink a message.Publisher.
func (s *sink) Close() error { return nil }

func (s *sink) take(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(id)
}

func (s *sink) add(id string) {
	if s.ids = append(s.ids, id); len(s.ids) == s.want {
		close(s.full)
	}
}

// await returns when everything came.
func (s *sink) await(b *testing.B) {
	b.Helper()
	select {
	case <-s.full:
	case <-time.After(2 * time.Minute):
		s.mu.Lock()
		defer s.mu.Unlock()
		b.Fatalf("%d of %d messages came", len(s.ids), s.want)
	}
}

// check fails b unless what came is among the messages 0 to of-1, each once, and, unless left is nil, the next of each
// key, in their order. left says how many of each came before, and then counts these too.
func (s *sink) check(b *testing.B, of int, left map[int]int) {
	b.Helper()
	seen := make([]bool, of)
	for _, id := range s.ids {
		i, err := strconv.Atoi(id[len(id)-12:])
		if err != nil || i < 0 || i >= of || seen[i] {
			b.Fatalf("message %q is not one of the %d, or came twice", id, of)
		}
		seen[i] = true
		if left == nil {
			continue
		}
		key := i % keys
		if i != key+left[key]*keys {
			b.Fatalf("message %d came as number %d of key %d", i, left[key], key)
		}
		left[key]++
	}
}

// headers are the metadata of message i, as package cqrs would write them.
func headers(key int) message.Metadata {
	return message.Metadata{
		"ce_partitionkey": fmt.Sprintf("order-%d", key), "ce_type": "orders.placed", "ce_kind": "event",
		"ce_source": "orders", "ce_specversion": "1.0", "ce_time": "2026-01-01T00:00:00Z",
		"content-type": "application/json", "ce_correlationid": id(key), "ce_causationid": id(key),
	}
}

var payload = make([]byte, 300)

// messages makes the messages from to to-1.
func messages(from, to int) []*message.Message {
	msgs := make([]*message.Message, 0, to-from)
	for i := from; i < to; i++ {
		m := message.NewMessage(id(i), payload)
		m.Metadata = headers(i % keys)
		msgs = append(msgs, m)
	}
	return msgs
}
