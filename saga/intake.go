package saga

import (
	"context"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga/internal/flow"
	"github.com/surge-go/surge/saga/internal/store"
)

// A work is one input on its way to an instance, which it names by id or by key. A zero input is a tick: it takes
// what is due.
type work struct {
	id    string
	key   store.Key
	input flow.Input
	env   cqrs.Envelope // of the message that brought it

	state []byte // start: encoded, since a start may be folded more than once
	tags  string // start
	tick  *tick
	op    *operation
}

// keep remembers what a dead letter needs, in case nobody ever wants the message.
func (w *work) keep(d *cqrs.Delivery) {
	w.input.ID, w.input.Topic, w.input.Headers = d.Envelope.ID, d.Topic, d.Metadata
}

// replies takes answers to commands.
func (e *Engine) replies(ctx context.Context, ds []*cqrs.Delivery) error {
	works := make([]work, 0, len(ds))
	for _, d := range ds {
		if d.Envelope.Kind != cqrs.KindReply {
			continue
		}
		t, ok := flow.ParseToken(d.Envelope.Token)
		if !ok {
			e.log.Warn("not a reply to a saga", "token", d.Envelope.Token, "id", d.Envelope.ID)
			continue
		}
		works = append(works, replyWork(t, d))
	}
	return e.take(ctx, works...)
}

// replyWork makes a work of a reply. Garbage becomes one with an outcome that no instance can take: the one that waits
// for this very reply is suspended and keeps it.
func replyWork(t flow.Token, d *cqrs.Delivery) work {
	a, err := cqrs.ParseAnswer(d)
	if err != nil {
		a.Outcome, a.Payload = "unreadable "+a.Outcome, d.Payload
	}
	in := flow.Input{
		Kind: flow.Reply, Step: t.Step, Inc: t.Inc, Undo: t.Aim != flow.ToDo,
		Outcome: a.Outcome, Payload: a.Payload, ID: d.Envelope.ID,
	}
	if a.Rejection != nil {
		in.Code = a.Rejection.Code
		if a.Rejection.Err != nil {
			in.Text = a.Rejection.Err.Error()
		}
	}
	return work{id: t.Saga, input: in, env: d.Envelope}
}

// measure holds timers back while replies come in late: what looks like silence then only waits in line. It gets what
// was dealt with, so a reply that has to wait for another process, and comes again and again, holds up nobody.
func (e *Engine) measure(done []work) {
	if e.cfg.MaxReplyAge < 0 {
		return
	}
	for _, w := range done {
		sent := w.env.OccurredAt
		if w.input.Kind == flow.Reply && !sent.IsZero() && time.Since(sent) > e.cfg.MaxReplyAge {
			e.late.Store(time.Now().Add(e.cfg.MaxReplyAge).UnixMilli())
			return
		}
	}
}

// events takes what starts sagas, what they wait for, and what asks them to cancel.
func (e *Engine) events(ctx context.Context, ds []*cqrs.Delivery) error {
	works := make([]work, 0, len(ds))
	for _, d := range ds {
		list, err := e.heard(d)
		if err != nil {
			d.Err = err
			continue
		}
		works = append(works, list...)
	}
	return e.take(ctx, works...)
}

func (e *Engine) heard(d *cqrs.Delivery) (all []work, err error) {
	e.mu.Lock()
	listeners := e.listeners[d.Envelope.Type]
	e.mu.Unlock()
	for _, l := range listeners {
		list, err := l(d.Message, d)
		if err != nil {
			return nil, err
		}
		for i := range list {
			list[i].env = d.Envelope
		}
		all = append(all, list...)
	}
	return all, nil
}

// take hands works to the transaction in ctx. They are folded just before it commits, together with those of
// everybody who shares it: one load, one update, one journal insert, whatever brought them.
func (e *Engine) take(ctx context.Context, works ...work) error {
	if len(works) == 0 {
		return nil
	}
	for i := range works {
		if works[i].env.ID == "" {
			works[i].env, _ = cqrs.EnvelopeOf(ctx)
		}
	}
	return uow.BeforeCommit(ctx, e, e.flush, works...)
}
