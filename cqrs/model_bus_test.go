package cqrs_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
)

// modelBus is a topic of partitions that each belong to one subscriber at a time. When one moves, its session ends, and
// the next subscriber gets what comes after the last message before which all are acknowledged.
type modelBus struct {
	mu    sync.Mutex
	rng   *rand.Rand
	parts []*modelPartition
	subs  []*modelSubscriber
}

type modelPartition struct {
	log       []*message.Message
	delivered []*message.Message // of the log, copies in the sessions that had them last
	acked     int                // all before
	owner     *modelSubscriber
	session   context.Context
	end       context.CancelFunc
}

type modelSubscriber struct {
	bus    *modelBus
	ch     chan *message.Message
	closed bool
}

func (s *modelSubscriber) Subscribe(_ context.Context, topic string) (<-chan *message.Message, error) {
	if topic != "shop.commands" {
		return make(chan *message.Message), nil
	}
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	s.ch = make(chan *message.Message, 200_000)
	s.bus.subs = append(s.bus.subs, s)
	s.bus.assign()
	return s.ch, nil
}

func (s *modelSubscriber) Close() error {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	if s.closed || s.ch == nil {
		return nil
	}
	s.closed = true
	s.bus.subs = slices.DeleteFunc(s.bus.subs, func(o *modelSubscriber) bool { return o == s })
	for _, p := range s.bus.parts {
		if p.owner == s {
			p.take()
		}
	}
	close(s.ch)
	s.bus.assign()
	return nil
}

// take ends the session of the partition's owner.
func (p *modelPartition) take() {
	p.end()
	p.owner = nil
	for ; p.acked < len(p.delivered); p.acked++ {
		select {
		case <-p.delivered[p.acked].Acked():
		default:
			return
		}
	}
}

// assign gives partitions without an owner one; with bus.mu held.
func (b *modelBus) assign() {
	if len(b.subs) == 0 {
		return
	}
	for _, p := range b.parts {
		if p.owner != nil {
			continue
		}
		p.owner = b.subs[b.rng.IntN(len(b.subs))]
		p.session, p.end = context.WithCancel(context.Background())
		p.delivered = p.delivered[:p.acked]
		p.push()
	}
}

// push delivers what is new.
func (p *modelPartition) push() {
	for i := len(p.delivered); i < len(p.log); i++ {
		m := p.log[i].Copy()
		m.SetContext(p.session)
		p.delivered = append(p.delivered, m)
		p.owner.ch <- m
	}
}

func (b *modelBus) send(part int, m *message.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.parts[part%len(b.parts)]
	p.log = append(p.log, m)
	if p.owner != nil {
		p.push()
	}
}

// rebalance moves a partition.
func (b *modelBus) rebalance() {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.parts[b.rng.IntN(len(b.parts))]
	if p.owner != nil {
		p.take()
		b.assign()
	}
}
