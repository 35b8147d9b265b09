package outboxtest

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
)

// testDown has a publisher fail for a while: nothing may be lost, nothing may cost an attempt.
func testDown(t *testing.T, open Factory) {
	b := newBench(t, open)
	var failures atomic.Int64
	var up atomic.Bool
	p := &publisher{script: func(_ string, msgs []*message.Message) (int, error) {
		if up.Load() {
			return len(msgs), nil
		}
		failures.Add(1)
		return 0, errScripted
	}}
	r, _ := b.relay(p, outbox.RelayConfig{Attempts: 2})
	for i := range 100 {
		b.publish("topic", strconv.Itoa(i%5), strconv.Itoa(i))
	}
	b.eventually("20 failures", func() bool { return failures.Load() > 20 })
	if s := b.stats(); s.Depth != 100 || s.Retrying != 0 || s.Dead != 0 {
		t.Errorf("depth %d, retrying %d, dead %d", s.Depth, s.Retrying, s.Dead)
	}
	up.Store(true)
	b.drained(r)
	b.inOrder(p, 100)
}

// inOrder checks that messages 0 to n-1 left once each, in order for each key.
func (b *bench) inOrder(p *publisher, n int) {
	b.t.Helper()
	byKey, _ := p.payloads()
	total := 0
	for key, got := range byKey {
		last := -1
		for _, s := range got {
			i, err := strconv.Atoi(s)
			if err != nil || i <= last {
				b.t.Errorf("key %s: %s after %d", key, s, last)
			}
			last = i
			total++
		}
	}
	if total != n {
		b.t.Errorf("%d messages left, want %d", total, n)
	}
}

// testHalfFailing has a publisher take a part of a batch and fail.
func testHalfFailing(t *testing.T, open Factory) {
	b := newBench(t, open)
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(1, 2))
	p := &publisher{script: func(_ string, msgs []*message.Message) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		if rnd.IntN(3) == 0 {
			return rnd.IntN(len(msgs) + 1), errScripted
		}
		return len(msgs), nil
	}}
	r, _ := b.relay(p, outbox.RelayConfig{Batch: 20, Attempts: 1000})
	for i := range 300 {
		b.publish("topic", strconv.Itoa(i%5), strconv.Itoa(i))
	}
	b.drained(r)
	b.eventually("no retries", func() bool { return b.stats().Retrying == 0 })
	b.inOrder(p, 300)
}

// testHanging has one topic's Publish hang while far more messages than the buffer holds wait for it.
func testHanging(t *testing.T, open Factory) {
	b := newBench(t, open)
	gate := make(chan struct{})
	p := &publisher{script: func(topic string, msgs []*message.Message) (int, error) {
		if topic == "slow" {
			<-gate
		}
		return len(msgs), nil
	}}
	r, _ := b.relay(p, outbox.RelayConfig{Batch: 10, Buffer: 20})
	for i := range 50 {
		batch := []string{strconv.Itoa(4 * i), strconv.Itoa(4*i + 1), strconv.Itoa(4*i + 2), strconv.Itoa(4*i + 3)}
		b.publish("slow", strconv.Itoa(i%5), batch...)
		b.publish("fast", strconv.Itoa(i%5), batch...)
	}
	b.eventually("the other topic's messages leave", func() bool { return r.Published() >= 200 })
	b.eventually("and are deleted", func() bool { return b.stats().Depth == 200 })
	close(gate)
	b.drained(r)
	b.inOrder(p, 400)
	if _, again := p.payloads(); again != 0 {
		t.Errorf("%d published again", again)
	}
}

// refusing returns a publisher that refuses batches with the payload "bad" as long as refuse says so.
func refusing(refuse *atomic.Bool) *publisher {
	return &publisher{script: func(_ string, msgs []*message.Message) (int, error) {
		for _, m := range msgs {
			if refuse.Load() && string(m.Payload) == "bad" {
				return 0, errScripted
			}
		}
		return len(msgs), nil
	}}
}

// feed publishes messages of other keys until done, since a message is only to blame while others pass.
func (b *bench) feed(topic string, done func() bool) {
	b.t.Helper()
	i := 0
	b.eventually("done", func() bool {
		b.publish(topic, "fed", strconv.Itoa(i))
		i++
		return done()
	})
}

// testRefused checks BlockKey: what is behind a refused message waits until it is dead, and nothing else does.
func testRefused(t *testing.T, open Factory) {
	b := newBench(t, open)
	var refuse atomic.Bool
	refuse.Store(true)
	p := refusing(&refuse)
	r, _ := b.relay(p, outbox.RelayConfig{Attempts: 3})
	b.publish("topic", "k", "1", "bad", "2", "3")
	b.publish("topic", "other", "1", "2")
	b.eventually("others pass", func() bool {
		return p.got("topic", "other") == "[1 2]" && p.got("topic", "k") == "[1]"
	})
	b.feed("topic", func() bool { return b.stats().Retrying == 3 || b.stats().Dead > 0 })
	b.publish("topic", "k", "4")
	b.eventually("it follows", func() bool { return b.stats().Retrying >= 4 || b.stats().Dead > 0 })
	b.feed("topic", func() bool { return b.stats().Dead == 1 })
	b.publish("topic", "k", "5")
	b.eventually("the key goes on", func() bool { return p.got("topic", "k") == "[1 2 3 4 5]" })
	b.drained(r)
	b.eventually("no retries", func() bool { return b.stats().Retrying == 0 })
	for m, err := range b.box.Dead(context.Background(), outbox.DeadFilter{Topic: "topic", Key: "k"}) {
		if err != nil {
			t.Fatal(err)
		}
		if m.ID != "k/bad" || m.Attempts != 3 || m.Error == "" || m.Metadata.Get(outbox.HeaderKey) != "k" {
			t.Errorf("dead message %+v", m)
		}
	}
}

// testSkip checks Skip: later messages of the key overtake the refused one.
func testSkip(t *testing.T, open Factory) {
	b := newBench(t, open)
	var refuse atomic.Bool
	refuse.Store(true)
	p := refusing(&refuse)
	r, _ := b.relay(p, outbox.RelayConfig{Poison: func(string) outbox.Poison { return outbox.Skip }})
	b.publish("topic", "k", "1", "bad", "2")
	b.eventually("the key goes on", func() bool { return p.got("topic", "k") == "[1 2]" })
	b.eventually("one retries", func() bool { return b.stats().Retrying == 1 })
	refuse.Store(false)
	b.eventually("it passes", func() bool { return p.got("topic", "k") == "[1 2 bad]" })
	b.drained(r)
}

// testBlockShard checks BlockShard: the shard waits, with all of its topics, and nothing else does.
func testBlockShard(t *testing.T, open Factory) {
	b := newBench(t, open)
	var refuse atomic.Bool
	refuse.Store(true)
	p := refusing(&refuse)
	r, _ := b.relay(p, outbox.RelayConfig{Poison: func(string) outbox.Poison { return outbox.BlockShard }})
	b.publish("topic", "k", "1", "bad", "2")
	b.publish("topic", "other", "1")
	b.eventually("one retries", func() bool { return b.stats().Retrying == 1 })
	b.publish("second", "k", "1")
	b.publish("second", "other", "1")
	b.eventually("other shards go on", func() bool { return p.got("second", "other") == "[1]" })
	b.never("the shard goes on", func() bool { return p.got("second", "k") != "[]" || p.got("topic", "k") != "[1]" })
	refuse.Store(false)
	b.eventually("the shard goes on", func() bool {
		return p.got("second", "k") == "[1]" && p.got("topic", "k") == "[1 bad 2]"
	})
	b.drained(r)
}

// testDead checks what an operator can do.
func testDead(t *testing.T, open Factory) {
	b := newBench(t, open)
	var refuse atomic.Bool
	refuse.Store(true)
	p := refusing(&refuse)
	r, _ := b.relay(p, outbox.RelayConfig{Attempts: 1})
	b.publish("topic", "a", "bad", "1")
	b.publish("topic", "b", "bad", "1")
	b.feed("topic", func() bool { return b.stats().Dead == 2 })
	ctx := context.Background()
	if _, err := b.box.Replay(ctx, outbox.DeadFilter{}, outbox.Action{Actor: "ann"}); !errors.Is(err, outbox.ErrNoActor) {
		t.Errorf("without a reason: %v", err)
	}
	why := outbox.Action{Actor: "ann", Reason: "the broker was misconfigured"}
	if n, err := b.box.Discard(ctx, outbox.DeadFilter{Key: "a"}, why); n != 1 || err != nil {
		t.Errorf("discarded %d, %v", n, err)
	}
	refuse.Store(false)
	if n, err := b.box.Replay(ctx, outbox.DeadFilter{Topic: "topic"}, why); n != 1 || err != nil {
		t.Errorf("replayed %d, %v", n, err)
	}
	b.eventually("it leaves", func() bool { return p.got("topic", "b") == "[1 bad]" })
	b.drained(r)
	if got := p.got("topic", "a"); got != "[1]" {
		t.Errorf("discarded, yet published: %s", got)
	}
	if b.stats().Dead != 0 {
		t.Errorf("%d dead", b.stats().Dead)
	}
	kept := count(t, b.db, "SELECT count(*) FROM outbox_dead WHERE actor = 'ann' AND state IN ('replayed', 'discarded')")
	if kept != 2 {
		t.Errorf("%d records of what ann did", kept)
	}
}
