package outbox_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
)

// A queue gives back what was put in, in that order, and reuses its memory, in which nothing stays that has left.
func TestQueueReusesItsMemory(t *testing.T) {
	t.Parallel()
	var q outbox.Queue
	const most = 100
	in, out := int64(0), int64(0)
	for range 5_000 {
		for range rand.IntN(most - q.Len() + 1) {
			q.Push(in)
			in++
		}
		for _, seq := range q.Pop(rand.IntN(q.Len() + 1)) {
			if seq != out {
				t.Fatalf("got %d, want %d", seq, out)
			}
			out++
		}
		if places, taken := q.Memory(); places > 4*most || taken > q.Len() {
			t.Fatalf("%d messages in a memory for %d, %d of them left there", q.Len(), places, taken)
		}
	}
}

// A topic for each day or tenant is forgotten once it is idle, but not while a message of it is refused: who else passes
// meanwhile tells whether that is its fault.
func TestIdleTopicsAreForgotten(t *testing.T) {
	t.Parallel()
	to := &scripted{script: func(_ string, msgs []*message.Message) error {
		for _, m := range msgs {
			if m.UUID == "bad" {
				return errors.New("refused")
			}
		}
		return nil
	}}
	f := run(t, to, outbox.RelayConfig{Lease: 300 * time.Millisecond, Attempts: 1_000})
	f.publish(t, "poisoned", "k", "bad")
	for i := range 100 {
		f.publish(t, "day-"+strconv.Itoa(i), "k", "on-day-"+strconv.Itoa(i))
	}
	within(t, "it is known whose fault it is, and no topic else", func() bool {
		f.publish(t, "poisoned", "l", "good")
		stats, err := f.box.Stats(t.Context())
		return err == nil && stats.Retrying == 1 && f.relay.KnownTopics() == 1
	})
	f.publish(t, "day-0", "k", "later")
	f.drain(t)
	if !slices.Contains(to.ids(), "later") {
		t.Error("a message of a topic that was forgotten has not left")
	}
}
