package outboxtest

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
)

// owned returns how many shards each owner has.
func (b *bench) owned() map[string]int {
	n := map[string]int{}
	for _, s := range b.stats().Shards {
		if s.Owner != "" {
			n[s.Owner]++
		}
	}
	return n
}

// balanced reports whether all shards are owned by n owners, evenly.
func (b *bench) balanced(n int) bool {
	owned := b.owned()
	total := 0
	for _, shards := range owned {
		total += shards
		if d := shards - outbox.Shards/n; d < 0 || d > 1 {
			return false
		}
	}
	return len(owned) == n && total == outbox.Shards
}

// testBalance has relays come and go under load: nothing is published twice, since each hands over properly.
func testBalance(t *testing.T, open Factory) {
	b := newBench(t, open)
	p := &publisher{}
	const lease = 6 * time.Second // long enough for a busy machine: a lease that runs out costs duplicates
	n := 0
	load := func() {
		b.publish("topic", strconv.Itoa(n%50), strconv.Itoa(n))
		n++
	}
	r, _ := b.relay(p, outbox.RelayConfig{Lease: lease})
	b.eventually("one has all", func() bool { load(); return b.balanced(1) })
	_, stop2 := b.relay(p, outbox.RelayConfig{Lease: lease})
	b.eventually("two share", func() bool { load(); return b.balanced(2) })
	_, stop3 := b.relay(p, outbox.RelayConfig{Lease: lease})
	b.eventually("three share", func() bool { load(); return b.balanced(3) })
	if err := errors.Join(stop2(), stop3()); err != nil {
		t.Error(err)
	}
	b.eventually("one has all again", func() bool { load(); return b.balanced(1) })
	b.drained(r)
	b.inOrder(p, n)
	if _, again := p.payloads(); again != 0 {
		t.Errorf("%d published again", again)
	}
}

// testStolen takes a relay's leases away while its Publish is under way, as another relay would after they expired:
// what the sleeper deletes when it wakes must not be what the new owner has yet to publish.
func testStolen(t *testing.T, open Factory) {
	b := newBench(t, open)
	asleep, wake := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	p := &publisher{script: func(_ string, msgs []*message.Message) (int, error) {
		if once.CompareAndSwap(false, true) {
			close(asleep)
			<-wake
		}
		return len(msgs), nil
	}}
	const lease = 500 * time.Millisecond
	r, _ := b.relay(p, outbox.RelayConfig{Lease: lease})
	b.publish("topic", "k", "1", "2", "3")
	<-asleep
	exec(t, b.db, "UPDATE outbox_lease SET owner = 'thief#1', epoch = epoch + 1, expires_at = 9000000000000000")
	pause(2 * lease)
	b.publish("topic", "k", "4")
	close(wake)
	b.eventually("the sleeper's Publish returns", func() bool { return r.Published() == 3 })
	b.never("the sleeper deletes, or publishes more", func() bool {
		return b.stats().Depth != 4 || p.got("topic", "k") != "[1 2 3]"
	})
	exec(t, b.db, "UPDATE outbox_lease SET expires_at = 0")
	b.drained(r)
	if got := p.got("topic", "k"); got != "[1 2 3 4]" {
		t.Errorf("published %s", got)
	}
}

// testKilled leaves a relay without its leases given back, as kill -9 would, and checks that another one takes over
// when they have expired, and that one of the same name need not wait.
func testKilled(t *testing.T, open Factory) {
	b := newBench(t, open)
	kill := func(owner string, lease time.Duration) {
		gate := make(chan struct{})
		t.Cleanup(func() { close(gate) })
		hung := &publisher{script: func(string, []*message.Message) (int, error) { <-gate; return 0, errScripted }}
		r, stop := b.relay(hung, outbox.RelayConfig{Owner: owner, Lease: lease, Grace: time.Millisecond})
		b.eventually("it has leases", func() bool { return b.balanced(1) })
		b.publish("topic", "k", owner)
		b.eventually("it hangs", func() bool { return hangs(r) })
		if err := stop(); !errors.Is(err, outbox.ErrHung) {
			t.Fatalf("Run returned %v", err)
		}
		if !b.balanced(1) {
			t.Fatal("the leases were given back")
		}
	}
	p := &publisher{}
	kill("first", time.Second)
	r, stop := b.relay(p, outbox.RelayConfig{Owner: "second"})
	b.drained(r)
	if err := stop(); err != nil {
		t.Error(err)
	}
	kill("third", time.Hour)
	r, _ = b.relay(p, outbox.RelayConfig{Owner: "third"})
	b.drained(r)
	if got := p.got("topic", "k"); got != "[first third]" {
		t.Errorf("published %s", got)
	}
}

// hangs reports whether the relay's publisher has its message; only then does stopping it abandon a Publish.
func hangs(r *outbox.Relay) bool { return r.Publishing() > 0 }

// testShards checks that a database laid out for another number of shards is refused.
func testShards(t *testing.T, open Factory) {
	b := newBench(t, open)
	exec(t, b.db, "UPDATE outbox_meta SET value = '32' WHERE name = 'shards'")
	err := b.unit.Do(context.Background(), func(ctx context.Context) error {
		return b.box.Publish("topic", newMessage(ctx, "k", "1"))
	})
	if !errors.Is(err, outbox.ErrShards) {
		t.Errorf("Publish: %v", err)
	}
	r, err := outbox.NewRelay(b.box, &publisher{}, outbox.RelayConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.Run(ctx); !errors.Is(err, outbox.ErrShards) {
		t.Errorf("Run: %v", err)
	}
}

// testPause checks Pause and Resume.
func testPause(t *testing.T, open Factory) {
	b := newBench(t, open)
	p := &publisher{}
	r, _ := b.relay(p, outbox.RelayConfig{})
	r.Pause()
	b.publish("topic", "k", "1", "2")
	b.never("it publishes", func() bool { return r.Published() > 0 })
	r.Resume()
	b.drained(r)
	if got := p.got("topic", "k"); got != "[1 2]" {
		t.Errorf("published %s", got)
	}
}
