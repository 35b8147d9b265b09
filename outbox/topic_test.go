package outbox_test

import (
	"math/rand/v2"
	"testing"

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
