package kafkabus_test

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// A consumer drops the messages whose contexts have ended. If a later one of the key still looked alive it would
// run first, and the dropped one after it when it is delivered again.
func TestRule06_ContextsEndFromTheLastMessageToTheFirst(t *testing.T) {
	t.Parallel()
	cfg := quickConfig()
	cfg.Drain = time.Millisecond
	bus := open(t, fake(t).ListenAddrs(), cfg)
	name := topic(t, bus, 1)
	publish(t, bus, name, keyed("k", numbered(1000)...)...)
	for range 10 {
		sub := subscriber(t, bus, "g")
		got := read(t, subscribe(t, sub, name), 1000)
		ended := make(chan error, 1)
		go func() { ended <- sub.Close() }()
		watchEnd(t, got)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	got := read(t, subscribe(t, subscriber(t, bus, "g"), name), 1000)
	go got[0].Nack()
	watchEnd(t, got)
}

// watchEnd looks at the contexts in order, as a consumer does, until all have ended.
func watchEnd(t *testing.T, got []*message.Message) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for dead := -1; dead != 0; {
		dead = -1
		for i, m := range got {
			switch over := m.Context().Err() != nil; {
			case over && dead < 0:
				dead = i
			case !over && dead >= 0:
				t.Fatalf("message %d looks alive although %d has ended", i, dead)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the contexts do not end; the first that has is %d", dead)
		}
	}
}
