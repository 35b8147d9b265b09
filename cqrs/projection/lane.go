package projection

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// A lane applies the messages of one partition to one generation, batch by batch, each in a transaction. What it
// remembers of its checkpoint is only a guess: the store decides.
type lane struct {
	f         *feeder
	topic     string // "" for what a generation is loaded from
	partition int32
	ordered   bool // messages have positions: what is at or before the checkpoint is behind us
	in        queue

	at    Checkpoint
	known bool
}

func (f *feeder) newLane(topic string, partition int32, ordered bool) *lane {
	return &lane{f: f, topic: topic, partition: partition, ordered: ordered, in: queue{some: make(chan struct{}, 1)}}
}

// A queue is what a lane has yet to apply. It takes whatever comes: the bus bounds what it delivers unacknowledged of a
// partition, and one that stands still must not keep the others of its topic waiting behind it.
type queue struct {
	mu     sync.Mutex
	events []*event
	closed bool
	some   chan struct{} // has an element after something was put in
}

// put adds an event, or reports that the lane has ended.
func (q *queue) put(e *event) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.events = append(q.events, e)
	poke(q.some)
	return true
}

// take returns at most limit events.
func (q *queue) take(limit int) []*event {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(limit, len(q.events))
	batch := append(make([]*event, 0, n), q.events[:n]...)
	clear(q.events[:n])
	q.events = q.events[n:]
	return batch
}

// close returns what is left.
func (q *queue) close() []*event {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	return q.events
}

// run applies what comes in until ctx ends or the generation is retired, and then gives the rest back.
func (l *lane) run(ctx context.Context) error {
	defer func() { nack(l.in.close()) }()
	for ctx.Err() == nil {
		batch := l.in.take(l.f.p.cfg.MaxBatch)
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
			case <-l.in.some:
			}
			continue
		}
		if err := l.process(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}

// process applies a batch to its end. What fails is tried again in halves, so that what stands before an event that
// cannot be applied is; there the lane waits. Nothing is skipped, but for dead letters.
func (l *lane) process(ctx context.Context, batch []*event) error {
	l.f.p.decode(batch)
	defer l.f.p.stalls.Delete(l.key()) // what it gives back stands still no more, or elsewhere
	size, failures := len(batch), 0
	for {
		if batch = l.current(batch); len(batch) == 0 {
			return nil
		}
		n := min(size, len(batch))
		err := l.apply(ctx, batch[:n])
		var wait time.Duration
		switch {
		case err == nil:
			l.passed(batch[:n])
			batch, size, failures = batch[n:], 2*size, 0
			continue
		case errors.Is(err, errRetired), ctx.Err() != nil:
			nack(batch)
			return errors.Join(err, ctx.Err())
		case errors.Is(err, ErrMoved):
			l.known = false
			continue
		case errors.Is(err, errHeld):
			wait = heldPoll
		case n > 1:
			size = n / 2
			continue
		default:
			failures++
			var buried bool
			if wait, buried = l.failed(ctx, batch[0], err, failures); buried {
				l.passed(batch[:1])
				batch, failures = batch[1:], 0
				continue
			}
		}
		l.pause(ctx, batch[0], wait)
	}
}

// passed acknowledges what is behind the lane.
func (l *lane) passed(batch []*event) {
	for _, e := range batch {
		e.msg.Ack()
	}
	l.f.p.stalls.Delete(l.key())
}

// current gives back what a session has taken from us. That begins with the last message, so none overtakes another.
// Its new owner, or we in the next session, go on at the checkpoint; meanwhile the whole group may wait for us.
func (l *lane) current(batch []*event) []*event {
	if !l.ordered {
		return batch
	}
	rest := batch[:0]
	for _, e := range batch {
		if e.msg.Context().Err() != nil {
			e.msg.Nack()
		} else {
			rest = append(rest, e)
		}
	}
	return rest
}

// pause waits before e is tried again, or until its session has ended.
func (l *lane) pause(ctx context.Context, e *event, d time.Duration) {
	if l.ordered {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(e.msg.Context(), cancel)()
	}
	pause(ctx, d)
}

// heldPoll is how often a lane of the live model looks whether its shadow is level.
const heldPoll = 10 * time.Millisecond

func nack(batch []*event) {
	for _, e := range batch {
		e.msg.Nack()
	}
}

func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// apply applies messages in one transaction, together with the checkpoint behind them.
func (l *lane) apply(ctx context.Context, batch []*event) error {
	if err := l.load(ctx); err != nil {
		return err
	}
	events, next := l.ahead(batch)
	if len(events) == 0 {
		return nil
	}
	return l.commit(ctx, events, next, func(ctx context.Context, fresh []*event) error {
		for _, e := range fresh {
			if e.verdict != nil {
				return &faultError{e.verdict}
			}
		}
		for _, g := range groups(fresh, l.f.p.cfg.KeyOrder) {
			if err := g.route.apply(ctx, g.events); err != nil {
				return &faultError{err}
			}
		}
		return nil
	})
}

// A faultError is an error that the event, or its apply function, is to blame for, and not the store.
type faultError struct{ err error }

func (e *faultError) Error() string { return e.err.Error() }
func (e *faultError) Unwrap() error { return e.err }

// commit moves the checkpoint over events and does work with those that are new, in one transaction.
func (l *lane) commit(
	ctx context.Context, events []*event, next Checkpoint, work func(ctx context.Context, fresh []*event) error,
) error {
	p, at := l.f.p, next
	done := p.track.enter(l)
	err := p.work.Do(ctx, func(ctx context.Context) error {
		ctx, err := l.f.enter(ctx)
		if err != nil {
			return err
		}
		fresh, err := l.fresh(ctx, events)
		if err != nil {
			return err
		}
		at = next
		at.Applied = l.at.Applied + int64(len(fresh))
		if len(fresh) > 0 {
			at.EventAt = fresh[len(fresh)-1].delivery.Envelope.OccurredAt
		}
		if err := p.store.Advance(ctx, p.name, l.f.gen.Number, l.at.Position, at); err != nil {
			return err
		}
		return work(ctx, fresh)
	})
	done(err == nil, events)
	if err != nil {
		return err
	}
	l.at = at
	p.applied(l.f.gen.Number, l, events)
	return nil
}

// load reads the checkpoint unless it is known.
func (l *lane) load(ctx context.Context) error {
	if l.known {
		return nil
	}
	p := l.f.p
	all, err := p.store.List(ctx, p.name, l.f.gen.Number)
	if err != nil {
		return fmt.Errorf("projection: read checkpoints: %w", err)
	}
	l.at, l.known = Checkpoint{Topic: l.topic, Partition: l.partition, Position: None}, true
	for _, c := range all {
		if c.Topic == l.topic && c.Partition == l.partition {
			l.at = c
		}
	}
	return nil
}

// ahead returns the messages that are not behind us, and the checkpoint behind them.
func (l *lane) ahead(batch []*event) ([]*event, Checkpoint) {
	next := l.at
	if !l.ordered {
		next.Position += int64(len(batch))
		return batch, next
	}
	events := make([]*event, 0, len(batch))
	for _, e := range batch {
		if e.position > next.Position {
			events = append(events, e)
			next.Position = e.position
		}
	}
	return events, next
}

// fresh returns the events that the model is made of and that were not applied before: a message that was
// published twice has two positions, and one ID.
func (l *lane) fresh(ctx context.Context, events []*event) ([]*event, error) {
	mine := make([]*event, 0, len(events))
	first := make(map[string]*event, len(events))
	for _, e := range events {
		if e.route == nil {
			continue
		}
		if id := e.id(); id != "" && l.f.p.cfg.Inbox != nil {
			if first[id] != nil {
				continue
			}
			first[id] = e
		}
		mine = append(mine, e)
	}
	known, err := l.f.claim(ctx, first)
	if err != nil || len(known) == 0 {
		return mine, err
	}
	fresh := mine[:0]
	for _, e := range mine {
		if !known[e.id()] {
			fresh = append(fresh, e)
		}
	}
	return fresh, nil
}

// failed decides how long to wait before an event that cannot be applied is tried again, unless it is buried: then it
// became a dead letter.
func (l *lane) failed(ctx context.Context, e *event, err error, failures int) (wait time.Duration, buried bool) {
	cfg := &l.f.p.cfg
	log := l.f.log.With("topic", l.topic, "partition", l.partition, "id", e.delivery.Envelope.ID,
		"type", e.delivery.Envelope.Type, "error", err)
	wait = backoff(cfg.Retry, failures)
	asked, asks := asksFor(err)
	blamed := errors.As(err, new(*faultError))
	switch {
	case asks:
		wait = max(asked, cfg.Retry.Min)
	case errors.Is(err, cqrs.ErrNewerVersion):
		wait = cfg.Retry.Max
	case blamed && cfg.DeadLetters != nil && !errors.Is(err, context.Canceled) &&
		(failures >= cfg.Retry.Attempts || errors.Is(err, cqrs.ErrUndecodable)):
		failed := l.bury(ctx, e, err, failures)
		if failed == nil {
			log.Error("event is a dead letter; the model is without it")
			return 0, true
		}
		log.Error("dead letter cannot be stored", "store_error", failed)
	}
	l.f.p.stalls.Store(l.key(), err)
	log.Error("event cannot be applied; its partition stands still", "retry_in", wait)
	return max(wait, time.Millisecond), false
}

// backoff doubles with each failure, up to Max.
func backoff(r cqrs.Retry, failures int) time.Duration {
	if doublings := failures - 1; r.Min <= r.Max>>doublings { // Min<<doublings may overflow
		return r.Min << doublings
	}
	return r.Max
}

// bury makes a dead letter of an event, together with the checkpoint behind it.
func (l *lane) bury(ctx context.Context, e *event, cause error, attempts int) error {
	events, next := l.ahead([]*event{e})
	if len(events) == 0 {
		return nil
	}
	env := &e.delivery.Envelope
	letter := &cqrs.DeadLetter{Reason: cause.Error(), DiedAt: time.Now(), Record: cqrs.Record{
		Group: l.f.group, ID: e.id(), Queue: e.id(), Topic: e.delivery.Topic, Type: storable(env.Type),
		Key: storable(env.Key), Payload: e.delivery.Payload, Metadata: e.delivery.Metadata, Attempt: attempts,
		Failures: []cqrs.Failure{{At: time.Now(), Error: cause.Error()}},
	}}
	return l.commit(ctx, events, next, func(ctx context.Context, fresh []*event) error {
		if len(fresh) == 0 {
			return nil
		}
		return l.f.p.cfg.DeadLetters.Put(ctx, []*cqrs.DeadLetter{letter})
	})
}
