package cqrs

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
)

// A feed lets messages into a run from outside of its subscriptions. Its zero value is closed.
type feed struct {
	mu   sync.RWMutex // read-locked by those who are handing over
	open bool
}

func (f *feed) set(open bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = open
}

// NoPublishHandler returns a handler for Watermill's message.Router, for people who have one:
//
//	router.AddConsumerHandler("orders", "orders.commands", subscriber, p.NoPublishHandler("orders.commands"))
//
// Run must be running too, with ProcessorConfig.Subscribe or without: the message goes to its lane, as if the processor
// had read it from topic, and the handler returns when it is committed, durably parked or dead. It returns an error,
// upon which the Router nacks, if it is given back, and [ErrNotRunning] when Run does not run.
//
// What is lost is what the Router does not have: it hands over the next message when this one is done, unless the
// subscriber delivers many at once, so batches are small; it cancels handlers when it closes, before they have
// finished; and topics are neither paused nor checked. Its middlewares that retry or sort out poisoned messages have
// nothing to do, since the handler fails only when the processor stops.
func (p *Processor) NoPublishHandler(topic string) message.NoPublishHandlerFunc {
	return func(m *message.Message) error {
		if r := p.current.Load(); r == nil || !r.accept(topic, m) {
			return fmt.Errorf("%w: message %s of %q", ErrNotRunning, m.UUID, topic)
		}
		select {
		case <-m.Acked():
			return nil
		case <-m.Nacked():
			return fmt.Errorf("cqrs: message %s of %q was given back", m.UUID, topic)
		}
	}
}

// accept hands a message to its lane.
func (r *runner) accept(topic string, m *message.Message) bool {
	r.feed.mu.RLock()
	defer r.feed.mu.RUnlock()
	if !r.feed.open {
		return false
	}
	it := r.item(topic, m)
	return r.laneOf(it).put(r.intake, it)
}

// Middleware makes a [Behavior] of a middleware of Watermill's Router. It sees a message with the ID, payload and
// headers of the one that is handled; for [Execute] there are none but the ID. One that acknowledges or that returns
// messages is not for here: those are refused with an error. Nor is one that keeps a message out without an error, as
// Watermill's Deduplicator does with a message that failed and runs again: that is a failure, too.
func Middleware(m message.HandlerMiddleware) Behavior {
	return func(ctx context.Context, d *Delivery, next func(context.Context) error) error {
		msg := message.NewMessage(d.Envelope.ID, d.Payload)
		if d.Metadata != nil {
			msg.Metadata = maps.Clone(d.Metadata) // what a middleware notes there is not the sender's
		}
		msg.SetContext(ctx)
		made, err := m(func(msg *message.Message) ([]*message.Message, error) { return nil, next(msg.Context()) })(msg)
		if err == nil && len(made) > 0 {
			return fmt.Errorf("cqrs: a middleware of message %s returned %d messages", d.Envelope.ID, len(made))
		}
		return err
	}
}
