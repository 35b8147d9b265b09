package cqrstest

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// busDelivers sends what a careless bus loses: much at once, empty and binary payloads, odd headers.
func busDelivers(l *line) {
	_, in := l.subscribe(l.group)
	sent := interleaved(20, 0, 25)
	odd := message.NewMessage("odd", []byte{0, 1, 2, 0xff, 0xfe, '\n', 0})
	odd.Metadata[cqrs.HeaderKey] = "a key\nof ünusual \"bytes\" "
	odd.Metadata["empty"], odd.Metadata["UPPER lower-_."] = "", "ü\x00\n"
	empty := message.NewMessage("empty", nil)
	empty.Metadata[cqrs.HeaderKey] = "e"
	unkeyed := message.NewMessage("unkeyed", []byte("{}"))
	sent = append(sent, odd, empty, unkeyed)
	copies := map[string]*message.Message{}
	for _, m := range sent {
		copies[m.UUID] = m.Copy()
	}
	l.publish(sent[0])
	l.publish(sent[1:]...)
	for len(copies) > 0 {
		m := l.next(in)
		is := copies[m.UUID]
		delete(copies, m.UUID)
		m.Ack()
		if is == nil {
			continue // a repetition
		}
		if !bytes.Equal(m.Payload, is.Payload) {
			l.Fatalf("the payload of %q came as %q", is.UUID, m.Payload)
		}
		for k, v := range is.Metadata {
			if got, ok := m.Metadata[k]; !ok || got != v {
				l.Fatalf("the header %q of %q came as %q (%v)", k, is.UUID, got, ok)
			}
		}
	}
}

// busNack refuses every third message the first time, and whatever comes before its turn.
func busNack(l *line) {
	const keys, each = 5, 12
	_, in := l.subscribe(l.group)
	l.publish(interleaved(keys, 0, each)...)
	refused, next := map[string]bool{}, map[string]int{}
	for done := 0; done < keys*each; {
		m := l.next(in)
		key := m.Metadata[cqrs.HeaderKey]
		var n int
		_, err := fmt.Sscanf(m.UUID, key+"/%d", &n)
		must(l, err)
		switch {
		case n < next[key] && l.Claims.Order:
			m.Ack() // a repetition
		case n%3 == 0 && !refused[m.UUID]:
			refused[m.UUID] = true
			m.Nack()
		case n > next[key] && l.Claims.Order:
			if !refused[fmt.Sprintf("%s/%d", key, next[key])] {
				l.Fatalf("%s came while %d was next, and nothing was refused", m.UUID, next[key])
			}
			m.Nack()
		default:
			next[key] = n + 1
			done++
			m.Ack()
		}
	}
	if len(refused) != keys*each/3 {
		l.Errorf("%d messages came to be refused, want %d", len(refused), keys*each/3)
	}
}

// busContext: a message's context lives until it is acked, or its subscription ends.
func busContext(l *line) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(l.Context()))
	defer cancel()
	_, in := l.subscribeUntil(ctx, l.group)
	l.publish(keyed("k", 0, 1)...)
	m := l.next(in)
	if err := m.Context().Err(); err != nil {
		l.Fatalf("the context of a message that is being handled has ended: %v", err)
	}
	m.Ack()
	l.within("the context of an acked message ends", m.Context().Done())
	if l.Claims.Durable {
		defer l.takeOver(1)
	}
	l.publish(keyed("k", 1, 1)...)
	m = l.next(in)
	cancel()
	l.within("the context of a message that was taken back ends", m.Context().Done())
	l.ended("after the context of Subscribe", in)
}

// takeOver has another subscriber of the group ack what is left.
func (l *line) takeOver(n int) []*message.Message {
	l.Helper()
	_, in := l.subscribe(l.group)
	seen := map[string]bool{}
	var got []*message.Message
	for len(seen) < n {
		m := l.next(in)
		if !seen[m.UUID] {
			got = append(got, m)
		}
		seen[m.UUID] = true
		m.Ack()
	}
	return got
}

// busClosed: what comes after Close has no effect and does not hang.
func busClosed(l *line) {
	s, in := l.subscribe(l.group)
	l.publish(keyed("k", 0, 1)...)
	m := l.next(in)
	m.Ack()
	l.within("the ack is taken", m.Context().Done())
	must(l, s.Close())
	l.ended("after Close", in)
	if _, err := s.Subscribe(l.Context(), l.Topic); err == nil {
		l.Error("Subscribe after Close succeeds")
	}
	must(l, s.Close())
	m.Ack()
	m.Nack()
}

func busOrder(l *line) {
	const keys, each = 10, 60
	_, in := l.subscribe(l.group)
	b := newBook(l, keys*each)
	var reading sync.WaitGroup
	reading.Go(func() { b.keep(in) })
	l.publish(interleaved(keys, 0, each)...)
	b.close(l)
	must(l, l.subs[0].Close())
	reading.Wait()
}

func busWindow(l *line) {
	_, in := l.subscribe(l.group)
	l.publish(keyed("k", 0, l.Claims.Window+1)...)
	held := l.read(in, l.Claims.Window)
	if l.Claims.Order {
		want(l, "before the first ack", uuids(held), uuids(keyed("k", 0, l.Claims.Window)))
	}
	for i := len(held) - 1; i >= 0; i-- {
		held[i].Ack()
	}
	l.next(in).Ack()
}

// busNackInWindow: what was delivered behind a message that is refused comes again behind it, unless it was acked.
func busNackInWindow(l *line) {
	_, in := l.subscribe(l.group)
	n := min(l.Claims.Window, 6)
	l.publish(keyed("k", 0, n)...)
	held := l.read(in, n)
	held[0].Ack()
	held[1].Nack()
	got := []string{}
	for len(got) < n-1 {
		m := l.next(in)
		got = append(got, m.UUID)
		m.Ack()
	}
	want(l, "after a nack", got, uuids(keyed("k", 1, n-1)))
}

// busGroups: a group that does not ack holds up no other.
func busGroups(l *line) {
	_, slow := l.subscribe(l.group + "-slow")
	_, quick := l.subscribe(l.group + "-quick")
	const n = 10
	l.publish(keyed("k", 0, n)...)
	held := l.next(slow)
	got := map[string]bool{}
	for len(got) < n {
		m := l.next(quick)
		got[m.UUID] = true
		m.Metadata["note"] = "of the quick group"
		m.Ack()
	}
	if held.Metadata["note"] != "" {
		l.Error("groups share a message")
	}
	held.Ack()
	seen := map[string]bool{held.UUID: true}
	for len(seen) < n {
		m := l.next(slow)
		seen[m.UUID] = true
		m.Ack()
	}
}

// busMembers has a second member join and the first leave while messages are on their way.
func busMembers(l *line) {
	const keys, each = 12, 30
	b := newBook(l, keys*each)
	var reading sync.WaitGroup
	first, in := l.subscribe(l.group)
	reading.Go(func() { b.keep(in) })
	l.publish(interleaved(keys, 0, each/3)...)
	b.wait(l, "key-0/0")
	second, in := l.subscribe(l.group)
	reading.Go(func() { b.keep(in) })
	b.wait(l, fmt.Sprintf("key-%d/%d", keys-1, each/3-1))
	l.drained(b, keys, each/3)
	l.publish(interleaved(keys, each/3, each/3)...)
	b.wait(l, fmt.Sprintf("key-0/%d", each/3))
	must(l, first.Close())
	l.drained(b, keys, 2*each/3)
	l.publish(interleaved(keys, 2*each/3, each/3)...)
	b.close(l)
	must(l, second.Close())
	reading.Wait()
}

// drained waits until so many messages of each key have come: order is promised to who publishes one after the other.
func (l *line) drained(b *book, keys, each int) {
	for k := range keys {
		b.wait(l, fmt.Sprintf("key-%d/%d", k, each-1))
	}
}

// wait waits until a message was handled.
func (b *book) wait(l *line, id string) {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !b.has(id) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			l.Fatalf("%s did not come", id)
		}
	}
}

// busUnackedAtClose: what an orderly consumer leaves comes to the next one.
func busUnackedAtClose(l *line) {
	s, in := l.subscribe(l.group)
	n := min(l.Claims.Window, 8)
	l.publish(keyed("k", 0, n)...)
	held := l.read(in, n)
	must(l, s.Close())
	l.ended("after Close", in)
	got := uuids(l.takeOver(n))
	want(l, "came to the next", sorted(got), sorted(uuids(keyed("k", 0, n))))
	if l.Claims.Order {
		want(l, "in order", got, uuids(keyed("k", 0, n)))
	}
	ackAll(held) // too late, and harmless
}

// busUnackedAtEnd: what a consumer leaves whose context ends comes to the next one.
func busUnackedAtEnd(l *line) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(l.Context()))
	defer cancel()
	s, in := l.subscribeUntil(ctx, l.group)
	n := min(l.Claims.Window, 8)
	l.publish(keyed("k", 0, n)...)
	held := l.read(in, n)
	cancel()
	l.ended("after the context of Subscribe", in)
	must(l, s.Close())
	want(l, "came to the next", sorted(uuids(l.takeOver(n))), sorted(uuids(keyed("k", 0, n))))
	ackAll(held)
}

// busAway: messages wait for a group that has subscribed before.
func busAway(l *line) {
	s, in := l.subscribe(l.group)
	l.publish(keyed("k", 0, 1)...)
	m := l.next(in)
	m.Ack()
	l.within("the ack is taken", m.Context().Done())
	must(l, s.Close())
	l.publish(keyed("k", 1, 3)...)
	_, in = l.subscribe(l.group)
	missing := map[string]bool{"k/1": true, "k/2": true, "k/3": true}
	for len(missing) > 0 {
		m := l.next(in)
		delete(missing, m.UUID)
		m.Ack()
	}
}

func busKeeps(l *line) {
	l.publish(keyed("k", 0, 5)...)
	l.out.Wait()
	want(l, "kept", sorted(uuids(l.takeOver(5))), sorted(uuids(keyed("k", 0, 5))))
}

// busAckedAtClose acks, while Close waits for it, all that was read: none of it may come again.
func busAckedAtClose(l *line) {
	s, in := l.subscribe(l.group)
	n := min(l.Claims.Window, 8)
	l.publish(keyed("k", 0, n)...)
	held := l.read(in, n)
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	l.ended("while Close waits", in)
	ackAll(held)
	must(l, <-closed)
	l.publish(keyed("k", n, 1)...)
	want(l, "came to the next", uuids(l.takeOver(1)), uuids(keyed("k", n, 1)))
}
