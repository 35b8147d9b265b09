package localbus_test

import (
	"testing"

	"github.com/surge-go/surge/cqrs/localbus"
)

// A message costs its copy (message, two channels, metadata) and its context; the bus adds no more than
// a few allocations per batch and partition.
func TestAllocationsPerMessage(t *testing.T) {
	const size, budget = 500, 16
	bus := localbus.New(localbus.Config{})
	defer bus.Close()
	sub, err := bus.Subscriber("g")
	if err != nil {
		t.Fatal(err)
	}
	in, err := sub.Subscribe(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	go ackBatches(in, 64)
	pub, msgs := bus.Publisher(), batch(size)
	allocs := testing.AllocsPerRun(20, func() {
		if err := pub.Publish("t", msgs...); err != nil {
			t.Fatal(err)
		}
	})
	if per := allocs / size; per > budget {
		t.Fatalf("%.1f allocations per message, budget %d", per, budget)
	}
}
