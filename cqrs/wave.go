package cqrs

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
)

// wave runs the handlers of a wave's messages and gives each message its fate.
func (b *batch) wave(ctx context.Context, w *wave) {
	if w.route == nil || !w.route.batch {
		for _, it := range w.items {
			if b.admit(it) {
				b.each(ctx, it)
			}
		}
		return
	}
	items := make([]*item, 0, len(w.items))
	for _, it := range w.items {
		if b.admit(it) {
			items = append(items, it)
		}
	}
	b.together(ctx, items)
}

// admit decides about messages that need no handler, or must wait.
func (b *batch) admit(it *item) bool {
	switch {
	case it.queue != "" && b.blocked[it.queue]:
		it.fate = behind
	case it.skip:
		it.fate = skipped
	case it.later > 0:
		b.fail(it, Later(it.later, errors.New("cqrs: not due yet")))
	case it.verdict != nil:
		return true
	default:
		if d := it.route.pausedFor(); d > 0 {
			b.fail(it, Later(d, errPaused))
			return false
		}
		return true
	}
	return false
}

var errPaused = errors.New("cqrs: the type is paused")

// each runs one message in a part of its own.
func (b *batch) each(ctx context.Context, it *item) {
	if it.verdict == nil && it.route.batch {
		b.together(ctx, []*item{it})
		return
	}
	err := it.verdict
	if err == nil {
		b.l.active = []*item{it}
		err = b.part(ctx, it)
		b.l.active = b.l.active[:0]
	}
	b.judge(ctx, it, err)
}

// part runs a message's handlers and sends its reply; an error undoes them all.
func (b *batch) part(ctx context.Context, it *item) error {
	return b.p.do(ctx, func(ctx context.Context) (err error) {
		ctx, cancel := b.scope(ctx, it)
		defer cancel()
		defer contain(&err)
		var result any
		var answer error
		for _, h := range it.route.handlers {
			var r any
			err := b.invoke(ctx, h, it.d, &r)
			if err != nil && !outcomeOnly(err) {
				return err
			}
			if h == it.route.command {
				result, answer = r, err
			}
		}
		return b.reply(ctx, it, result, answer)
	})
}

// outcomeOnly reports whether an error says what became of a command, without undoing it.
func outcomeOnly(err error) bool {
	return errors.Is(err, ErrDeferred) || errors.Is(err, ErrNotExecuted)
}

func (b *batch) scope(ctx context.Context, it *item) (context.Context, context.CancelFunc) {
	if it.d.Envelope.TraceParent != "" {
		ctx = traceContext(ctx, it.d.Envelope)
	}
	ctx = &scope{Context: ctx, env: &it.d.Envelope, inTx: b.p.cfg.UnitOfWork != nil}
	return b.bounded(ctx)
}

func (b *batch) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if b.p.cfg.HandlerTimeout <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, b.p.cfg.HandlerTimeout)
}

func (b *batch) invoke(ctx context.Context, h *handler, d *Delivery, result *any) error {
	if len(b.p.cfg.Behaviors) == 0 {
		r, err := h.one(ctx, d)
		*result = r
		return err
	}
	return b.p.behave(ctx, d, func(ctx context.Context) error {
		r, err := h.one(ctx, d)
		*result = r
		return err
	})
}

// contain turns a panic into an error, so that it undoes its own message only.
func contain(err *error) {
	if v := recover(); v != nil {
		*err = fmt.Errorf("%w: %v\n%s", ErrPanic, v, debug.Stack())
	}
}

// together runs messages whose handlers see many at once. Those that fail by themselves are left out, with what is
// behind them, and the rest runs again; if the call fails as a whole, they run one by one.
func (b *batch) together(ctx context.Context, items []*item) {
	for len(items) > 0 {
		b.l.active = items
		err := b.call(ctx, items)
		b.l.active = nil
		switch {
		case err == nil:
			for _, it := range items {
				b.judge(ctx, it, it.d.Err)
			}
			return
		case !errors.Is(err, errSome) && len(items) == 1:
			b.judge(ctx, items[0], err)
			return
		case !errors.Is(err, errSome):
			for _, it := range items {
				if b.admit(it) {
					b.together(ctx, []*item{it})
				}
			}
			return
		}
		items = b.without(ctx, items)
	}
}

var errSome = errors.New("cqrs: some messages of the batch failed")

// without judges the messages that failed and returns those that may run again.
func (b *batch) without(ctx context.Context, items []*item) []*item {
	rest := make([]*item, 0, len(items))
	for _, it := range items {
		switch {
		case failsAlone(it.d.Err):
			b.judge(ctx, it, it.d.Err)
		case b.admit(it):
			rest = append(rest, it)
		}
	}
	return rest
}

// undone marks a rejection by a one-message handler or by a reply's hook in a batch: what was written has to go.
type undone struct{ error }

func (u undone) Unwrap() error { return u.error }

// failsAlone reports whether a message's own error undoes the call it was in.
func failsAlone(err error) bool {
	if errors.As(err, new(undone)) {
		return true
	}
	return err != nil && AsRejection(err) == nil && !outcomeOnly(err)
}

// call calls the handlers of items, which are the same for all, in one part.
func (b *batch) call(ctx context.Context, items []*item) error {
	return b.p.do(ctx, func(ctx context.Context) (err error) {
		defer contain(&err)
		for _, it := range items {
			it.d.Err = nil
		}
		ds, results := b.admitted(ctx, items)
		for _, h := range items[0].route.handlers {
			if err := b.callOne(ctx, h, ds, results); err != nil {
				return err
			}
		}
		return b.repliesOf(ctx, items, ds, results)
	})
}

// admitted returns the deliveries that behaviors let through.
func (b *batch) admitted(ctx context.Context, items []*item) ([]*Delivery, []any) {
	ds := make([]*Delivery, 0, len(items))
	for _, it := range items {
		if len(b.p.cfg.Behaviors) > 0 {
			sctx, cancel := b.scope(ctx, it)
			it.d.Err = b.p.behave(sctx, it.d, func(context.Context) error { return nil })
			cancel()
		}
		if it.d.Err == nil {
			ds = append(ds, it.d)
		}
	}
	return ds, make([]any, len(ds))
}

func (b *batch) callOne(ctx context.Context, h *handler, ds []*Delivery, results []any) error {
	if len(ds) == 0 {
		return nil
	}
	if h.many == nil {
		for i, d := range ds {
			if d.Err != nil {
				continue
			}
			r, err := b.oneOf(ctx, h, d)
			if AsRejection(err) != nil {
				err = undone{err}
			}
			d.Err, results[i] = err, r
		}
		return nil
	}
	ctx, cancel := b.bounded(b.batchScope(ctx, ds))
	defer cancel()
	err := h.many(ctx, ds, results)
	if !outcomeOnly(err) {
		return err
	}
	for _, d := range ds {
		d.Err = err
	}
	return nil
}

// batchScope lets a batch of one keep its message's envelope; for more the handler has to say, with WithEnvelope,
// in whose name it sends.
func (b *batch) batchScope(ctx context.Context, ds []*Delivery) context.Context {
	s := &scope{Context: ctx, inTx: b.p.cfg.UnitOfWork != nil}
	if len(ds) == 1 {
		s.env = &ds[0].Envelope
	}
	return s
}

func (b *batch) oneOf(ctx context.Context, h *handler, d *Delivery) (any, error) {
	ctx, cancel := b.scope(ctx, &item{d: d})
	defer cancel()
	return h.one(ctx, d)
}

// repliesOf answers what succeeded. If anything failed by itself, all is undone.
func (b *batch) repliesOf(ctx context.Context, items []*item, ds []*Delivery, results []any) error {
	for _, it := range items {
		if failsAlone(it.d.Err) {
			return errSome
		}
	}
	i := 0
	for _, it := range items {
		if i >= len(ds) || ds[i] != it.d {
			continue
		}
		result := results[i]
		i++
		if AsRejection(it.d.Err) != nil {
			continue
		}
		sctx, cancel := b.scope(ctx, it)
		err := b.reply(sctx, it, result, it.d.Err)
		cancel()
		if err != nil {
			it.d.Err = undone{err}
			return errSome
		}
	}
	return nil
}
