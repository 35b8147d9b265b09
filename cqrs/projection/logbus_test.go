package projection_test

import (
	"context"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// A logbus is a partitioned log in memory that is harsher than Kafka: every subscriber of a group is given all
// partitions, as if all others were zombies, and a rebalance leaves what was delivered where it is.
type logbus struct {
	mu        sync.Mutex
	topics    map[string][]*partition
	changed   chan struct{} // closed and replaced when something was appended, or on a rebalance
	epoch     int
	retention time.Duration
	compacted bool
	ends      bool                     // a rebalance ends the contexts of what was delivered
	delivered func(m *message.Message) // called with what is delivered; nil: nothing
}

type partition struct {
	first   int64 // the oldest offset that is there
	records []*message.Message
}

func newLogbus() *logbus {
	return &logbus{topics: map[string][]*partition{}, changed: make(chan struct{}), retention: -1}
}

func (b *logbus) partitions(topic string) []*partition {
	if b.topics[topic] == nil {
		for range 2 {
			b.topics[topic] = append(b.topics[topic], &partition{})
		}
	}
	return b.topics[topic]
}

// partitionOf keeps a key's messages together.
func partitionOf(key string) int { return int(key[len(key)-1]) % 2 }

func (b *logbus) Publish(topic string, ms ...*message.Message) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range ms {
		p := b.partitions(topic)[partitionOf(m.Metadata[cqrs.HeaderKey])]
		p.records = append(p.records, m)
	}
	b.announce()
	return nil
}

func (b *logbus) Close() error { return nil }

func (b *logbus) announce() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// rebalance has every subscriber begin anew.
func (b *logbus) rebalance() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.epoch++
	b.announce()
}

// trim removes what is before an offset, as retention does.
func (b *logbus) trim(topic string, partition int, before int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.partitions(topic)[partition].first = before
}

func (b *logbus) edge(topic string, of func(*partition) int64) (map[int32]int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	edges := map[int32]int64{}
	for i, p := range b.partitions(topic) {
		edges[int32(i)] = of(p)
	}
	return edges, nil
}

func (b *logbus) Earliest(_ context.Context, topic string) (map[int32]int64, error) {
	return b.edge(topic, func(p *partition) int64 { return p.first })
}

func (b *logbus) Latest(_ context.Context, topic string) (map[int32]int64, error) {
	return b.edge(topic, func(p *partition) int64 { return int64(len(p.records)) })
}

func (b *logbus) Compacted(context.Context, string) (bool, error) { return b.compacted, nil }

func (b *logbus) Retention(context.Context, string) (time.Duration, error) { return b.retention, nil }

func (b *logbus) Subscriber(string) (message.Subscriber, error) {
	panic("a bus with positions is asked for a subscriber without")
}

func (b *logbus) SubscriberAt(
	_ string, begin func(ctx context.Context, topic string, partition int32) (int64, bool, error),
) (message.Subscriber, error) {
	s := &logSubscriber{bus: b, begin: begin}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

type logSubscriber struct {
	bus    *logbus
	begin  func(ctx context.Context, topic string, partition int32) (int64, bool, error)
	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func (s *logSubscriber) Subscribe(_ context.Context, topic string) (<-chan *message.Message, error) {
	out := make(chan *message.Message, 8)
	var readers sync.WaitGroup
	for i := range 2 {
		readers.Go(func() { s.read(topic, int32(i), out) })
	}
	s.done.Go(func() {
		readers.Wait()
		close(out)
	})
	return out, nil
}

func (s *logSubscriber) Close() error {
	s.cancel()
	s.done.Wait()
	return nil
}

type session struct {
	ctx context.Context
	end context.CancelFunc
}

func newSession(ctx context.Context) *session {
	s := &session{}
	s.ctx, s.end = context.WithCancel(ctx)
	return s
}

// read delivers a partition, from where begin says whenever there was a rebalance.
func (s *logSubscriber) read(topic string, partition int32, out chan<- *message.Message) {
	session := newSession(s.ctx)
	defer func() { session.end() }()
	for epoch, next := -1, int64(0); s.ctx.Err() == nil; {
		m, changed, now := s.bus.at(topic, int(partition), next)
		if now != epoch {
			if s.bus.ends {
				session.end()
				session = newSession(s.ctx)
			}
			at, ok, err := s.begin(s.ctx, topic, partition)
			switch {
			case err != nil:
				select {
				case <-changed:
				case <-time.After(10 * time.Millisecond):
				case <-s.ctx.Done():
				}
				continue
			case !ok:
				panic("the projection does not say where to begin")
			case at == -2:
				first, _ := s.bus.Earliest(s.ctx, topic)
				at = first[partition]
			}
			epoch, next = now, at
			continue
		}
		if m == nil {
			select {
			case <-changed:
			case <-s.ctx.Done():
			}
			continue
		}
		c := m.Copy()
		c.SetContext(context.WithValue(session.ctx, cqrs.PositionKey{},
			cqrs.Position{Topic: topic, Partition: partition, Offset: next}))
		select {
		case out <- c:
			next++
			if s.bus.delivered != nil {
				s.bus.delivered(c)
			}
		case <-changed:
		case <-s.ctx.Done():
		}
	}
}

func (b *logbus) at(topic string, partition int, offset int64) (*message.Message, <-chan struct{}, int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.partitions(topic)[partition]; offset < int64(len(p.records)) {
		return p.records[offset], b.changed, b.epoch
	}
	return nil, b.changed, b.epoch
}
