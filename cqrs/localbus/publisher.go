package localbus

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

type publisher struct {
	bus    *Bus
	closed atomic.Bool
}

// Publish hands msgs to every group that reads topic and waits for their acks.
func (p *publisher) Publish(topic string, msgs ...*message.Message) error {
	if p.closed.Load() {
		return ErrClosed
	}
	if len(msgs) == 0 {
		return nil
	}
	for _, m := range msgs {
		if p.bus.cfg.InTransaction(m.Context()) {
			return fmt.Errorf("publish to %q: %w", topic, ErrInTransaction)
		}
	}
	ctx := msgs[0].Context()
	c := newCall(topic, msgs)
	switch handed, err := p.bus.hand(ctx, c); {
	case err != nil:
		return c.failure(err)
	case !handed:
		return nil
	}
	return p.bus.await(ctx, c)
}

func (p *publisher) Close() error {
	p.closed.Store(true)
	return nil
}

// hand gives the batch to all groups once all of them are there. It reports false for a batch that
// nobody reads and nobody minds.
func (b *Bus) hand(ctx context.Context, c *call) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	var timeout <-chan time.Time
	for {
		handed, absent, changed, err := b.offer(c)
		if changed == nil {
			return handed, err
		}
		if timeout == nil {
			t := time.NewTimer(b.cfg.Wait)
			defer t.Stop()
			timeout = t.C
			b.cfg.Logger.Info("publisher waits for a group", "topic", c.topic, "group", absent)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false, fmt.Errorf("%w: %q: %w", ErrAbsent, absent, ctx.Err())
		case <-timeout:
			return false, fmt.Errorf("%w: %q", ErrAbsent, absent)
		}
	}
}

// offer enqueues the batch for every reader, or names a group that is not there and returns, only then, the
// channel that tells of changes. It holds the lock so that Close and Forget see all of it or nothing.
func (b *Bus) offer(c *call) (handed bool, absent string, changed <-chan struct{}, err error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return false, "", nil, ErrClosed
	}
	readers := b.topics[c.topic]
	if absent, ok := b.missing(readers); ok {
		return false, absent, b.changed, nil
	}
	if len(readers) == 0 {
		if b.cfg.Discard {
			return false, "", nil, nil
		}
		return false, "", nil, ErrNoReader
	}
	c.expect(int32(len(readers)))
	for _, r := range readers {
		r.enqueue(c)
	}
	return true, "", nil, nil
}

// await waits for the batch and takes back what is left of it if it fails.
func (b *Bus) await(ctx context.Context, c *call) error {
	select {
	case <-c.done:
	case <-ctx.Done():
		c.finish(ctx.Err())
	}
	if c.err == nil {
		return nil
	}
	b.mu.RLock()
	for _, r := range b.topics[c.topic] {
		r.purge()
	}
	b.mu.RUnlock()
	err := c.failure(c.err)
	if err != nil {
		b.cfg.Logger.Warn("messages are given back to their publisher", "topic", c.topic, "error", c.err)
	}
	return err
}

// A call is one Publish under way.
type call struct {
	topic  string
	handed bool           // to the groups
	left   []atomic.Int32 // by message: groups that have not acked it
	open   atomic.Int64   // messages not acked by every group
	done   chan struct{}  // closed when over

	mu   sync.RWMutex
	msgs []*message.Message // not to be touched once over: they are the caller's again
	over bool
	err  error
}

func newCall(topic string, msgs []*message.Message) *call {
	return &call{topic: topic, msgs: msgs, left: make([]atomic.Int32, len(msgs)), done: make(chan struct{})}
}

func (c *call) expect(groups int32) {
	for i := range c.left {
		c.left[i].Store(groups)
	}
	c.open.Store(int64(len(c.left)))
	c.handed = true
}

// acked counts one group's ack of message i.
func (c *call) acked(i int) {
	if c.left[i].Add(-1) == 0 && c.open.Add(-1) == 0 {
		c.finish(nil)
	}
}

// finish ends the call; the first one wins.
func (c *call) finish(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	c.over, c.err = true, err
	close(c.done)
}

func (c *call) isOver() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.over
}

// failure describes which messages have not been acked by every group; it is nil when all are, if only just.
func (c *call) failure(err error) error {
	e := &PublishError{Topic: c.topic, Err: err}
	for i := range c.left {
		if !c.handed || c.left[i].Load() > 0 {
			e.Indexes = append(e.Indexes, i)
		}
	}
	if len(e.Indexes) == 0 {
		return nil
	}
	return e
}
