package kafkabus_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs/kafkabus"
)

func numbered(n int) []string {
	s := make([]string, n)
	for i := range s {
		s[i] = fmt.Sprint(i)
	}
	return s
}

func publish(t testing.TB, bus *kafkabus.Bus, topic string, msgs ...*message.Message) {
	t.Helper()
	pub := bus.Publisher()
	if err := pub.Publish(topic, msgs...); err != nil {
		t.Fatal(err)
	}
	closed(t, pub)
}

func ack(msgs ...*message.Message) {
	for _, m := range msgs {
		m.Ack()
	}
}

func wantIDs(t testing.TB, got []*message.Message, want ...string) {
	t.Helper()
	if ids := ids(got); !slices.Equal(ids, want) {
		t.Fatalf("received %v, want %v", ids, want)
	}
}

// eventually asks until the answer is yes.
func eventually(t testing.TB, what string, ask func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ask() {
		select {
		case <-ctx.Done():
			t.Fatalf("it never happened: %s", what)
		case <-tick.C:
		}
	}
}
