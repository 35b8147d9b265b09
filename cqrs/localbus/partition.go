package localbus

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// An item is one message on its way to one group.
type item struct {
	call   *call
	index  int // in the call
	tries  int // nacks
	msg    *message.Message
	cancel context.CancelFunc
}

// prepare makes the copy that is delivered; it reports false once the publisher has given up. The copy's context ends
// with the item alone: children of one that is canceled end in any order, see partition.cancel.
func (it *item) prepare(ctx context.Context) bool {
	c := it.call
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.over {
		return false
	}
	src := c.msgs[it.index]
	it.msg = message.NewMessage(src.UUID, src.Payload)
	if src.Metadata != nil {
		it.msg.Metadata = maps.Clone(src.Metadata)
	}
	ctx, it.cancel = context.WithCancel(context.WithoutCancel(ctx))
	it.msg.SetContext(ctx)
	return true
}

// reset forgets the copy.
func (it *item) reset() {
	if it.msg != nil {
		it.cancel()
		it.msg, it.cancel = nil, nil
	}
}

func (it *item) acked() bool {
	select {
	case <-it.msg.Acked():
		return true
	default:
		return false
	}
}

func (it *item) resolved() bool {
	select {
	case <-it.msg.Nacked():
		return true
	default:
		return it.acked()
	}
}

// mode is what a partition is doing.
type mode int

const (
	serving  mode = iota // deliver, await acks
	resting              // after a nack, until the timer
	draining             // the owner left: its acks count until the timer
	orphaned             // the group has no subscriber: give up at the timer
)

// A partition is a queue of one reader. Its goroutine lives while the queue holds messages: it
// delivers them in order, as many as the window allows, and walks the oldest unacked one.
type partition struct {
	reader *reader
	index  int
	wake   chan struct{} // holds one token
	stale  atomic.Bool   // the queue may hold messages whose publisher gave up

	mu      sync.Mutex
	inbox   []*item
	running bool

	// The fields below belong to the goroutine.
	queue   fifo
	sent    int // the first so many of the queue are delivered
	mode    mode
	timer   *time.Timer
	owner   *subscription
	version uint64 // of the reader's subscriptions, when owner was chosen
}

// push appends an item and reports whether the partition needs a start.
func (p *partition) push(it *item) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inbox = append(p.inbox, it)
	return len(p.inbox) == 1
}

// start runs the partition, or wakes it when it runs; the caller holds bus.mu.
func (p *partition) start() {
	p.mu.Lock()
	running := p.running
	p.running = true
	p.mu.Unlock()
	if running {
		p.kick()
		return
	}
	p.reader.bus.workers.Add(1)
	go p.run()
}

func (p *partition) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *partition) run() {
	defer p.reader.bus.workers.Done()
	for p.take() {
		p.follow()
		switch p.mode {
		case serving:
			p.serve()
		case draining:
			p.drain()
		default:
			p.pause()
		}
	}
}

// take moves what has arrived into the queue; it reports false, and the partition is at rest, when
// nothing is left to do.
func (p *partition) take() bool {
	switch {
	case p.reader.closed.Load():
		p.abort()
	case p.stale.CompareAndSwap(true, false):
		p.purge()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue.append(p.inbox)
	clear(p.inbox)
	p.inbox = p.inbox[:0]
	if p.queue.len() > 0 {
		return true
	}
	p.running = false
	p.enter(serving, 0)
	p.release()
	return false
}

// enter changes the mode, with a timer when it has a bound.
func (p *partition) enter(m mode, bound time.Duration) {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	if p.mode = m; m != serving {
		p.timer = time.NewTimer(bound)
	}
}

func (p *partition) release() {
	if p.owner != nil {
		p.owner.senders.Done()
		p.owner = nil
	}
}

// follow keeps the owner in step with the group's subscriptions. An owner that is still there keeps
// the partition until it has acked what it holds.
func (p *partition) follow() {
	if p.owner != nil && p.owner.left.Load() {
		p.cancel()
		p.release()
		if p.sent > 0 {
			p.enter(draining, p.reader.bus.cfg.Drain)
		}
	}
	version := p.reader.version.Load()
	switch {
	case p.mode == draining:
		return
	case p.owner != nil && (p.version == version || p.sent > 0):
		return
	}
	p.release()
	p.queue.at(p.sent).reset() // it may have been prepared for the owner before
	p.owner, p.version = p.reader.acquire(p.index), version
	switch {
	case p.owner == nil && p.mode != orphaned:
		p.enter(orphaned, p.reader.bus.cfg.Wait)
	case p.owner != nil && p.mode == orphaned:
		p.enter(serving, 0)
	}
}

// serve delivers what the window allows, then waits for whatever comes next.
func (p *partition) serve() {
	p.reap()
	next, ok := p.fill()
	if !ok || p.queue.len() == 0 {
		return
	}
	var out chan<- *message.Message
	if next != nil {
		out = p.owner.out
	}
	var acked, nacked <-chan struct{}
	if p.sent > 0 {
		head := p.queue.at(0).msg
		acked, nacked = head.Acked(), head.Nacked()
	}
	select {
	case out <- next:
		p.sent++
	case <-acked:
		p.pop()
	case <-nacked:
		p.nacked()
	case <-p.wake:
	}
}

// reap takes acked messages off the head without waiting.
func (p *partition) reap() {
	for p.sent > 0 && p.queue.at(0).acked() {
		p.pop()
	}
}

func (p *partition) pop() {
	it := p.queue.pop()
	p.sent--
	p.complete(it)
}

func (p *partition) complete(it *item) {
	it.reset()
	p.reader.depth.Add(-1)
	it.call.acked(it.index)
}

// fill delivers without waiting and returns the first message that has to wait. It reports false
// when the queue must be looked at again.
func (p *partition) fill() (*message.Message, bool) {
	if p.sent > 0 && p.version != p.reader.version.Load() {
		return nil, true // the partition may move on once these are acked
	}
	for limit := min(p.queue.len(), p.reader.bus.cfg.Window); p.sent < limit; p.sent++ {
		it := p.queue.at(p.sent)
		if it.msg == nil && !it.prepare(p.owner.ctx) {
			p.stale.Store(true)
			return nil, false
		}
		select {
		case p.owner.out <- it.msg:
		default:
			return it.msg, true
		}
	}
	return nil, true
}

// nacked gives up on the head or lets it rest; what was delivered after it follows it.
func (p *partition) nacked() {
	if p.owner.left.Load() {
		return // the message was taken back, not refused
	}
	head := p.queue.at(0)
	if head.tries++; head.tries >= p.reader.bus.cfg.Attempts {
		head.call.finish(fmt.Errorf("%w: group %q, message %q", ErrNacked, p.reader.group, head.msg.UUID))
		p.stale.Store(true)
		p.rewind()
		return
	}
	p.enter(resting, min(minBackoff<<min(head.tries-1, 16), maxBackoff))
}

// drain awaits the acks of an owner that left.
func (p *partition) drain() {
	for i := range p.sent {
		it := p.queue.at(i)
		if it.resolved() {
			continue
		}
		select {
		case <-it.msg.Acked():
		case <-it.msg.Nacked():
		case <-p.wake:
		case <-p.timer.C:
			p.rewind()
			p.enter(serving, 0)
		}
		return
	}
	p.rewind()
	p.enter(serving, 0)
}

// pause waits for the timer, and does what it was set for.
func (p *partition) pause() {
	select {
	case <-p.wake:
		return
	case <-p.timer.C:
	}
	if p.mode == orphaned {
		p.each(func(_ int, it *item) bool {
			it.call.finish(fmt.Errorf("%w: %q", ErrAbsent, p.reader.group))
			return p.drop(it)
		})
	}
	p.rewind()
	p.enter(serving, 0)
}

// rewind takes back what is delivered and not acked, so that it is delivered again in order.
func (p *partition) rewind() {
	p.each(func(i int, it *item) bool {
		if i < p.sent && it.acked() {
			p.complete(it)
			return false
		}
		it.reset()
		return true
	})
	p.sent = 0
}

// purge drops messages whose publisher has given up.
func (p *partition) purge() {
	p.each(func(_ int, it *item) bool { return !it.call.isOver() || p.drop(it) })
}

// abort drops everything: with the bus closed it failed, for a group that is forgotten it is done.
func (p *partition) abort() {
	p.mu.Lock()
	p.queue.append(p.inbox)
	p.inbox = nil
	p.mu.Unlock()
	forgotten := p.reader.forgotten.Load()
	p.each(func(_ int, it *item) bool {
		if forgotten {
			p.complete(it)
			return false
		}
		it.call.finish(ErrClosed)
		return p.drop(it)
	})
}

// drop forgets an item that nobody waits for.
func (p *partition) drop(it *item) bool {
	it.reset()
	p.reader.depth.Add(-1)
	return false
}

// cancel ends the contexts of what is delivered, the last one first. Whoever drops a message whose context has ended,
// and then looks at a later one, must not find that alive: it would overtake.
func (p *partition) cancel() {
	for _, it := range slices.Backward(p.queue.rest()[:p.sent]) {
		it.cancel()
	}
}

// each keeps the items for which keep(i, item) reports true. It begins with the last one, see cancel.
func (p *partition) each(keep func(int, *item) bool) {
	sent := 0
	for i, it := range slices.Backward(p.queue.rest()) {
		if !keep(i, it) {
			p.queue.clear(i)
		} else if i < p.sent {
			sent++
		}
	}
	p.queue.compact()
	p.sent = sent
}
