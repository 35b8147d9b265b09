package projection

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A Token names something that a caller has written and wants to read.
type Token struct {
	id        string
	topic     string
	partition int32
	offset    int64
}

// Message is the token of a message by its ID, as it stands in the outbox and in the envelope.
func Message(id string) Token { return Token{id: storable(id)} }

// At is the token of a message by its place.
func At(topic string, partition int32, offset int64) Token {
	return Token{topic: topic, partition: partition, offset: offset}
}

// String names the message.
func (t Token) String() string {
	if t.id != "" {
		return "message " + t.id
	}
	return fmt.Sprintf("%s/%d/%d", t.topic, t.partition, t.offset)
}

// Wait returns nil once the live model contains what token names, so that its writer can read it. It waits for
// bound at most, and then returns a [*StaleError], an [ErrStale], that says how far the model is, if the bus can tell
// soon. A message that became a dead letter counts as applied. A store that does not answer is waited for no longer,
// but for a transaction that is under way: a unit of work ends that in its own time. With a bound of 0 or less the
// model is always stale.
//
// What this process applies it hears of at once; for what another one applies it asks the store every Config.Poll.
// For a message's ID the latter needs an inbox with a method Seen. It must not be called inside a transaction.
func (p *Projection) Wait(ctx context.Context, token Token, bound time.Duration) error {
	start := time.Now()
	within, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	w := p.waiting.add(token)
	defer p.waiting.remove(w)
	poll := time.NewTicker(p.cfg.Poll)
	defer poll.Stop()
	for {
		applied, err := p.has(within, token)
		switch {
		case applied:
			return nil
		case err != nil && within.Err() == nil:
			return err
		}
		select {
		case <-poll.C:
		case generation := <-w.applied:
			if generation == p.live.Load() {
				return nil
			}
		case <-within.Done():
			if err := ctx.Err(); err != nil {
				return err
			}
			return p.stale(ctx, &StaleError{Token: token, Waited: time.Since(start)})
		}
	}
}

// tellTime is how long a caller who has waited in vain waits for the answer how far the model is.
const tellTime = time.Second

func (p *Projection) stale(ctx context.Context, e *StaleError) error {
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	if lags, err := p.Lag(ctx); err == nil {
		e.Lag = lags[0]
	}
	return e
}

// Seen is what an inbox may have beside [cqrs.Inbox].
type seen interface {
	Seen(ctx context.Context, group string, ids []string) ([]bool, error)
}

// has asks the store.
func (p *Projection) has(ctx context.Context, t Token) (bool, error) {
	m, err := p.Model(ctx)
	if err != nil || m.Live == 0 {
		return false, err
	}
	if t.id == "" {
		all, err := p.store.List(ctx, p.name, m.Live)
		if err != nil {
			return false, fmt.Errorf("projection: read checkpoints: %w", err)
		}
		return slices.ContainsFunc(all, func(c Checkpoint) bool {
			return c.Topic == t.topic && c.Partition == t.partition && c.Position >= t.offset
		}), nil
	}
	inbox, ok := p.cfg.Inbox.(seen)
	if !ok {
		return false, nil
	}
	var known []bool
	err = p.work.Do(ctx, func(ctx context.Context) (err error) {
		known, err = inbox.Seen(ctx, p.group(m.Live), []string{t.id})
		return err
	})
	if err != nil {
		return false, fmt.Errorf("projection: look up message: %w", err)
	}
	return len(known) == 1 && known[0], nil
}

// waiters are those who wait for what this process applies. The zero value is ready.
type waiters struct {
	mu  sync.Mutex
	all map[*waiter]struct{}
}

type waiter struct {
	token   Token
	applied chan int64 // the generation that has just applied it
}

func (w *waiters) add(t Token) *waiter {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[*waiter]struct{}{}
	}
	n := &waiter{t, make(chan int64, 2)} // the live model and its shadow
	w.all[n] = struct{}{}
	return n
}

func (w *waiters) remove(n *waiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.all, n)
}

// applied tells those who wait for it what a generation has committed, and the runner of a shadow's progress.
func (p *Projection) applied(generation int64, l *lane, events []*event) {
	if generation != p.live.Load() {
		poke(p.poke)
	}
	w := &p.waiting
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.all) == 0 {
		return
	}
	ids := make(map[string]bool, len(events))
	for _, e := range events {
		ids[e.id()] = true
	}
	for n := range w.all {
		t := n.token
		if ids[t.id] && t.id != "" ||
			t.id == "" && l.ordered && t.topic == l.topic && t.partition == l.partition && t.offset <= l.at.Position {
			select {
			case n.applied <- generation:
			default:
			}
		}
	}
}
