package kafkabus_test

import (
	"testing"
	"time"
)

// sarama keeps over sessions what is paused; the next claim of the partition must be fetched all the same.
func TestAPartitionThatWasPausedIsReadInTheNextSession(t *testing.T) {
	t.Parallel()
	cfg := quickConfig()
	cfg.Window, cfg.Buffer = 2, 1
	bus := open(t, fake(t).ListenAddrs(), cfg)
	name, other := topic(t, bus, 1), topic(t, bus, 1)
	publish(t, bus, name, keyed("k", numbered(10)...)...)
	sub := subscriber(t, bus, "g")
	in := subscribe(t, sub, name)
	first := read(t, in, 2)            // the window is full, the rest waits: the partition is paused
	time.Sleep(300 * time.Millisecond) // (it is received and paused)
	subscribe(t, sub, other)           // ends the session; another begins
	<-first[0].Context().Done()
	for _, m := range first {
		m.Nack()
	}
	seen := map[string]bool{}
	timeout := time.After(8 * time.Second)
	for len(seen) < 10 {
		select {
		case m := <-in:
			seen[m.UUID] = true
			m.Ack()
		case <-timeout:
			t.Fatalf("received %d of 10 in the session after the pause", len(seen))
		}
	}
}
