package cqrstest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// Transport makes publishers, and subscribers of groups: *localbus.Bus and *kafkabus.Bus are some.
type Transport interface {
	Publisher() message.Publisher
	Subscriber(group string) (message.Subscriber, error)
}

// BusClaims says what a bus promises beyond what every Watermill Pub/Sub does: to deliver each message to who has
// subscribed, to deliver it again after a nack, and to end its context. The zero value is what gochannel promises.
type BusClaims struct {
	Groups  bool // each group gets every message once, and its members share them
	Durable bool // what a group has not acked comes to it again, and what is published while it is away comes to it
	Keeps   bool // a group's first subscription gets what was published before
	Order   bool // messages of one key come in the order in which they were published, again after a nack too
	Drains  bool // acks that come after Close, while it waits for them, count: those messages do not come again
	Window  int  // so many messages of one key come before the first is acked; 0 means 1
}

// BusFixture is a bus and a topic of its own, on which nothing was published yet.
type BusFixture struct {
	Bus    Transport
	Topic  string // "" means a random name, of a topic that comes to be by being used
	Claims BusClaims
}

// RunBus is the conformance suite of what carries messages to a [cqrs.Processor]. It runs as subtests, each on a
// fixture of its own. open is told how long the bus has to wait for acks when it takes messages back, if it does:
// a case that leaves messages unacked asks for little, and one that acks them at the last moment for much.
func RunBus(t *testing.T, open func(t *testing.T, drain time.Duration) BusFixture) {
	t.Helper()
	const little, much = 50 * time.Millisecond, patience
	for name, c := range map[string]struct {
		test  func(*line)
		drain time.Duration
		needs func(BusClaims) bool
	}{
		"Delivers":       {busDelivers, much, nil},
		"Nack":           {busNack, much, nil},
		"Context":        {busContext, little, nil},
		"Closed":         {busClosed, little, nil},
		"Processor":      {busProcessor, much, nil},
		"Order":          {busOrder, much, func(c BusClaims) bool { return c.Order }},
		"Window":         {busWindow, much, func(c BusClaims) bool { return c.Window > 1 }},
		"NackInWindow":   {busNackInWindow, much, func(c BusClaims) bool { return c.Window > 1 && c.Order }},
		"Groups":         {busGroups, much, func(c BusClaims) bool { return c.Groups }},
		"Members":        {busMembers, much, func(c BusClaims) bool { return c.Groups && c.Durable }},
		"UnackedAtClose": {busUnackedAtClose, little, func(c BusClaims) bool { return c.Durable }},
		"UnackedAtEnd":   {busUnackedAtEnd, little, func(c BusClaims) bool { return c.Durable }},
		"Away":           {busAway, much, func(c BusClaims) bool { return c.Durable }},
		"Keeps":          {busKeeps, much, func(c BusClaims) bool { return c.Keeps }},
		"AckedAtClose":   {busAckedAtClose, much, func(c BusClaims) bool { return c.Drains && c.Order }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &line{T: t, BusFixture: open(t, c.drain)}
			if c.needs != nil && !c.needs(l.Claims) {
				t.Skip("the bus does not claim it")
			}
			l.run(c.test)
		})
	}
}

// A line is a topic under test.
type line struct {
	*testing.T
	BusFixture
	group string
	subs  []message.Subscriber

	out    sync.WaitGroup // publishing, which on some buses waits for acks
	mu     sync.Mutex
	faults []error // of publishing
}

func (l *line) run(test func(*line)) {
	if l.Topic == "" {
		l.Topic = "cqrstest-" + watermill.NewShortUUID()
	}
	l.group = "group-" + watermill.NewShortUUID()
	l.Claims.Window = max(l.Claims.Window, 1)
	l.Cleanup(func() {
		for _, s := range l.subs {
			_ = s.Close()
		}
		if l.Failed() {
			return // what was published may never be acked
		}
		l.out.Wait()
		for _, err := range l.faults {
			l.Errorf("Publish: %v", err)
		}
	})
	test(l)
}

// publish hands over messages in the background.
func (l *line) publish(messages ...*message.Message) {
	p := l.Bus.Publisher()
	l.out.Go(func() {
		l.fault(p.Publish(l.Topic, messages...))
	})
}

func (l *line) fault(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.faults = append(l.faults, err)
	}
}

func (l *line) subscriber(group string) message.Subscriber {
	l.Helper()
	s, err := l.Bus.Subscriber(group)
	must(l, err)
	l.subs = append(l.subs, s)
	return s
}

// subscribe subscribes until the subscriber is closed, which happens at the end of the test if not before.
func (l *line) subscribe(group string) (message.Subscriber, <-chan *message.Message) {
	l.Helper()
	return l.subscribeUntil(context.WithoutCancel(l.Context()), group)
}

func (l *line) subscribeUntil(ctx context.Context, group string) (message.Subscriber, <-chan *message.Message) {
	l.Helper()
	s := l.subscriber(group)
	in, err := s.Subscribe(ctx, l.Topic)
	must(l, err)
	return s, in
}

// next waits for a message.
func (l *line) next(in <-chan *message.Message) *message.Message {
	l.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case m, ok := <-in:
		if !ok {
			l.Fatal("the channel was closed, a message was to come")
		}
		return m
	case <-timer.C:
		l.Fatalf("no message came within %v", patience)
	}
	return nil
}

func (l *line) read(in <-chan *message.Message, n int) []*message.Message {
	l.Helper()
	got := make([]*message.Message, n)
	for i := range got {
		got[i] = l.next(in)
	}
	return got
}

// ended waits for a channel to be closed; what is still in it is not acked.
func (l *line) ended(what string, in <-chan *message.Message) {
	l.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case _, ok := <-in:
			if !ok {
				return
			}
		case <-timer.C:
			l.Fatalf("%s: the channel is still open", what)
		}
	}
}

// within waits for a channel to be closed.
func (l *line) within(what string, c <-chan struct{}) {
	l.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c:
	case <-timer.C:
		l.Fatalf("%s: not after %v", what, patience)
	}
}

// keyed makes messages of one key, numbered from 0.
func keyed(key string, from, n int) []*message.Message {
	all := make([]*message.Message, n)
	for i := range all {
		id := fmt.Sprintf("%s/%d", key, from+i)
		all[i] = message.NewMessage(id, []byte("payload of "+id))
		all[i].Metadata[cqrs.HeaderKey] = key
		all[i].Metadata[cqrs.HeaderType] = "cqrstest.sample"
	}
	return all
}

// interleaved makes n messages of each of so many keys, taking turns.
func interleaved(keys, from, n int) []*message.Message {
	var all []*message.Message
	for i := range n {
		for k := range keys {
			all = append(all, keyed(fmt.Sprintf("key-%d", k), from+i, 1)...)
		}
	}
	return all
}

func uuids(messages []*message.Message) []string {
	ids := make([]string, len(messages))
	for i, m := range messages {
		ids[i] = m.UUID
	}
	return ids
}

func ackAll(messages []*message.Message) {
	for _, m := range messages {
		m.Ack()
	}
}

// A book is what a group's store would hold: the number of the next message of each key.
type book struct {
	mu      sync.Mutex
	ordered bool
	next    map[string]int
	seen    map[string]bool
	left    int
	done    chan struct{}
	fault   string
}

func newBook(l *line, messages int) *book {
	return &book{
		ordered: l.Claims.Order, next: map[string]int{}, seen: map[string]bool{},
		left: messages, done: make(chan struct{}),
	}
}

// enter notes a message that was handled. A repetition is none the wiser; one that overtakes is a fault.
func (b *book) enter(id, key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen[id] {
		return
	}
	b.seen[id] = true
	var n int
	if _, err := fmt.Sscan(id[strings.LastIndexByte(id, '/')+1:], &n); err != nil {
		b.fault = fmt.Sprintf("a message came that was not sent: %q", id)
	}
	if b.ordered && n != b.next[key] {
		b.fault = fmt.Sprintf("%s came while %d was next", id, b.next[key])
	}
	b.next[key] = max(b.next[key], n+1)
	if b.left--; b.left == 0 {
		close(b.done)
	}
}

func (b *book) has(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen[id]
}

func (b *book) close(l *line) {
	l.Helper()
	l.within("not every message came", b.done)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fault != "" {
		l.Fatal(b.fault)
	}
}

// keep enters and acks everything that comes until the channel is closed. A message whose context has ended when it is
// read belongs to somebody else by now, as may others that came before it.
func (b *book) keep(in <-chan *message.Message) {
	for m := range in {
		if m.Context().Err() != nil {
			m.Nack()
			continue
		}
		b.enter(m.UUID, m.Metadata[cqrs.HeaderKey])
		m.Ack()
	}
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }
