package localbus_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"pgregory.net/rapid"

	"github.com/surge-go/surge/cqrs/localbus"
)

// log is what a group's store would hold: per key, the number of the next message. It stands for all
// subscribers of the group, as a database does.
type log struct {
	mu     sync.Mutex
	next   map[string]int
	broken map[string]bool // a message was refused or lost; what follows it must be refused too
	fault  string
}

// handle decides about one message by the group's rule: in order, once, and refuse what comes early.
func (l *log) handle(m *message.Message, refuse bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := m.Metadata["ce_partitionkey"]
	var n int
	fmt.Sscan(m.UUID, &n)
	switch {
	case n < l.next[key]: // a repetition
		m.Ack()
	case n > l.next[key]:
		if !l.broken[key] {
			l.fault = fmt.Sprintf("key %s: %d came while %d was next and nothing was refused", key, n, l.next[key])
		}
		m.Nack()
	case refuse:
		l.broken[key] = true
		m.Nack()
	default:
		l.next[key]++
		l.broken[key] = false
		m.Ack()
	}
}

// lose marks keys of messages that a crashed subscriber holds.
func (l *log) lose(m *message.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken[m.Metadata["ce_partitionkey"]] = true
}

// consume reads until the channel closes, refusing some messages and dying after life of them.
func (l *log) consume(in <-chan *message.Message, die context.CancelFunc, refuse []bool, life int) {
	for i := 0; ; i++ {
		m, ok := <-in
		switch {
		case !ok:
			return
		case i >= life:
			l.lose(m)
			die()
		default:
			l.handle(m, i < len(refuse) && refuse[i])
		}
	}
}

func TestNothingIsLostAndKeysKeepTheirOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		plan := drawPlan(rt)
		var fault string
		synctest.Test(t, func(t *testing.T) { fault = plan.run(t) })
		if fault != "" {
			rt.Fatal(fault)
		}
	})
}

type plan struct {
	cfg    localbus.Config
	groups int
	keys   []int    // of the messages, in order
	batch  int      // messages per Publish
	refuse []bool   // which of the messages it receives a subscriber refuses
	lives  []int    // messages that each subscriber handles before it dies
	delay  []uint16 // milliseconds before each of them joins
}

func drawPlan(t *rapid.T) plan {
	return plan{
		cfg: localbus.Config{
			Partitions: rapid.IntRange(1, 5).Draw(t, "partitions"),
			Window:     rapid.IntRange(1, 8).Draw(t, "window"),
			Drain:      time.Duration(rapid.IntRange(-1, 20).Draw(t, "drain")) * time.Millisecond,
			Attempts:   1000,
		},
		groups: rapid.IntRange(1, 2).Draw(t, "groups"),
		keys:   rapid.SliceOfN(rapid.IntRange(0, 5), 1, 60).Draw(t, "keys"),
		batch:  rapid.IntRange(1, 20).Draw(t, "batch"),
		refuse: rapid.SliceOfN(rapid.Bool(), 0, 20).Draw(t, "refuse"),
		lives:  rapid.SliceOfN(rapid.IntRange(0, 30), 0, 5).Draw(t, "lives"),
		delay:  rapid.SliceOfN(rapid.Uint16Range(0, 100), 5, 5).Draw(t, "delay"),
	}
}

func (p plan) run(t *testing.T) string {
	bus := localbus.New(p.cfg)
	logs := make([]*log, p.groups)
	var staff sync.WaitGroup
	for g := range logs {
		logs[g] = &log{next: map[string]int{}, broken: map[string]bool{}}
		p.staff(t, &staff, bus, logs[g], fmt.Sprint("g", g))
	}
	want, fault := p.publish(bus)
	if err := bus.Close(); err != nil {
		t.Error(err)
	}
	staff.Wait()
	for _, l := range logs {
		if l.fault != "" {
			return l.fault
		}
		for k, n := range want {
			if l.next[k] != n && fault == "" {
				return fmt.Sprintf("key %s: %d of %d messages handled", k, l.next[k], n)
			}
		}
	}
	return fault
}

// staff gives a group subscribers that come and die, and one that stays.
func (p plan) staff(t *testing.T, wg *sync.WaitGroup, bus *localbus.Bus, l *log, group string) {
	bus.Declare(group, "t")
	join := func(after time.Duration, life int) {
		time.Sleep(after)
		sub, err := bus.Subscriber(group)
		if err != nil {
			return
		}
		ctx, die := context.WithCancel(t.Context())
		in, err := sub.Subscribe(ctx, "t")
		if err != nil {
			die()
			return
		}
		l.consume(in, die, p.refuse, life)
		die()
	}
	for i, life := range p.lives {
		wg.Go(func() { join(time.Duration(p.delay[i])*time.Millisecond, life) })
	}
	wg.Go(func() { join(200*time.Millisecond, 1<<30) })
}

// publish sends the plan's messages, batch after batch as a relay does, and counts them by key.
func (p plan) publish(bus *localbus.Bus) (sent map[string]int, fault string) {
	pub, sent := bus.Publisher(), map[string]int{}
	var msgs []*message.Message
	for _, k := range p.keys {
		key := fmt.Sprint("k", k)
		msgs = append(msgs, keyed(key, fmt.Sprint(sent[key]))...)
		sent[key]++
	}
	for len(msgs) > 0 {
		n := min(p.batch, len(msgs))
		if err := pub.Publish("t", msgs[:n]...); err != nil {
			return sent, err.Error()
		}
		msgs = msgs[n:]
	}
	return sent, ""
}
