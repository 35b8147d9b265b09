package cqrs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrHorizon is returned by Run when a topic keeps messages longer than the group remembers that it has handled them:
// one that came again after that would run twice.
var ErrHorizon = errors.New("cqrs: a topic keeps messages longer than they are remembered")

// A memory is a store that remembers what has been handled, and for how long.
type memory struct {
	name  string
	keeps time.Duration
}

// Remember notes that handlers of this group rely on a store, named for people, that remembers messages for keeps:
// a participant's tombstones, say. Run compares it with the retention of the group's topics, as it does with what the
// inbox remembers.
func (p *Processor) Remember(store string, keeps time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closedToRegistration(store)
	if keeps > 0 {
		p.memories = append(p.memories, memory{store, keeps})
	}
}

// What buses and inboxes may be able to tell.
type (
	retainer interface {
		Retention(ctx context.Context, topic string) (time.Duration, error)
	}
	remembering interface{ Retention() time.Duration }
	emptiable   interface {
		Empty(ctx context.Context, group string) (bool, error)
	}
	positioned interface {
		Check(ctx context.Context, handled bool, topics ...string) error
	}
)

// inboxKeeps is how long the inbox remembers a message; 0 if it does not say.
func (c *ProcessorConfig) inboxKeeps() time.Duration {
	if r, ok := c.Inbox.(remembering); ok {
		return max(0, r.Retention())
	}
	return 0
}

// checkHorizon compares what topics keep with what is remembered. Where the bus cannot be asked, MaxAge alone keeps
// old messages from running.
func (r *runner) checkHorizon(ctx context.Context) error {
	retention := r.p.cfg.Retention
	if retention == nil {
		t, ok := r.sub.(retainer)
		if !ok {
			return nil
		}
		retention = t.Retention
	}
	memories := r.p.memories
	if keeps := r.p.cfg.inboxKeeps(); keeps > 0 {
		memories = append(slices.Clip(memories), memory{"the inbox", keeps})
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var faults []error
	for _, topic := range r.topics {
		if len(memories) == 0 || slices.Contains(r.p.cfg.KeptLonger, topic) {
			continue
		}
		kept, err := retention(ctx, topic)
		if err != nil {
			r.p.log.Warn("the retention of a topic cannot be checked", "topic", topic, "error", err)
			continue
		}
		for _, m := range memories {
			if kept < 0 || kept >= m.keeps {
				faults = append(faults, fmt.Errorf("%w: topic %q keeps them %s, %s of group %q remembers them for %s",
					ErrHorizon, topic, forHowLong(kept), m.name, r.p.group, m.keeps))
			}
		}
	}
	return errors.Join(faults...)
}

// askTime bounds how long a start waits for a bus that does not answer.
const askTime = 30 * time.Second

func forHowLong(d time.Duration) string {
	if d < 0 {
		return "for ever"
	}
	return "for " + d.String()
}

// checkPosition asks a bus that knows positions whether a group with a past still has its own. Going on elsewhere would
// skip messages, or run old ones again. Where the bus cannot be asked now, its members ask before they read.
func (r *runner) checkPosition(ctx context.Context) error {
	sub, ok := r.sub.(positioned)
	if !ok || len(r.topics) == 0 {
		return nil
	}
	handled := false
	if inbox, ok := r.p.cfg.Inbox.(emptiable); ok {
		err := r.p.do(ctx, func(ctx context.Context) error {
			empty, err := inbox.Empty(ctx, r.p.group)
			handled = !empty
			return err
		})
		if err != nil {
			return fmt.Errorf("cqrs: look into the inbox: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	err := sub.Check(ctx, handled, r.topics...)
	var lost interface{ OffsetsLost() bool }
	switch {
	case err == nil:
		return nil
	case errors.As(err, &lost) && lost.OffsetsLost():
		return fmt.Errorf("cqrs: group %q: %w", r.p.group, err)
	}
	r.p.log.Warn("the group's position cannot be checked yet", "error", err)
	return nil
}
