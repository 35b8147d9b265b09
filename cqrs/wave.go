package cqrs

import (
	"context"
	"errors"
	"time"
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
	case it.isTaken():
		b.leaveOut(it)
	case it.later > 0:
		it.fate, it.delay = scheduled, it.later
	case it.queue != "" && b.blocked[it.queue]:
		it.fate = behind
	case it.queue != "" && b.left[it.queue]:
		b.leaveOut(it)
	case it.skip:
		it.fate = skipped
	case it.verdict != nil:
		return true
	case it.stuck > 0:
		b.wait(it, min(it.stuck, b.p.cfg.Retry.Max), errStillHung)
	case b.cut || b.r.isOver():
		b.leaveOut(it)
	default:
		if d := it.route.pausedFor(); d > 0 {
			b.wait(it, d, errPaused)
			return false
		}
		return true
	}
	return false
}

var (
	errPaused    = errors.New("cqrs: the type is paused")
	errStillHung = errors.New("cqrs: an earlier run of its key has not returned")
)

// wait postpones a message that has not been tried.
func (b *batch) wait(it *item, d time.Duration, why error) {
	b.fail(it, Later(d, why))
	it.quiet = true
}

// leaveOut keeps a message, and what is behind it, out of this transaction.
func (b *batch) leaveOut(it *item) {
	it.fate = unstarted
	if it.queue != "" {
		b.left[it.queue] = true
	}
}

// each runs one message in a part of its own.
func (b *batch) each(ctx context.Context, it *item) {
	if it.verdict == nil && it.route.batch {
		b.together(ctx, []*item{it})
		return
	}
	err := it.verdict
	if err == nil {
		err = b.part(ctx, it)
	}
	if errors.Is(err, errOvertime) {
		b.leaveOut(it)
		return
	}
	b.judge(ctx, it, err)
}

// part runs a message's handlers and sends its reply; an error undoes them all.
func (b *batch) part(ctx context.Context, it *item) error {
	return b.p.do(ctx, func(ctx context.Context) error {
		d, rt := it.d, it.route
		ctx, cancel := b.scope(ctx, d, rt.limit)
		defer cancel()
		return b.guard(rt, []*item{it}, func(h *hand) error { return b.handle(ctx, h, rt, d) })
	})
}

// guard calls the application's code for items, and keeps account of it if it does not return.
func (b *batch) guard(rt *route, items []*item, f func(*hand) error) error {
	gaveUp, err := b.l.call(rt.limit, f)
	if !gaveUp {
		if len(items) > 1 && err == errExited { //nolint:errorlint // see call
			alone(items)
		}
		return err
	}
	b.cut = true
	b.l.leave(items...)
	if errors.Is(err, ErrHung) {
		if len(items) == 1 {
			items[0].verdict = err // whatever becomes of this transaction, it has had its run
		} else {
			alone(items)
			for _, it := range items {
				it.ready = false // decoded anew: what it was decoded to is still in the other's hands
			}
		}
	}
	return err
}

// alone has messages run one by one from now on: nobody knows which of them is to blame.
func alone(items []*item) {
	for _, it := range items {
		it.single = true
	}
}

// handle runs on the lane's hand; if that was given up, it stops after the handler at hand.
func (b *batch) handle(ctx context.Context, h *hand, rt *route, d *Delivery) error {
	var result any
	var answer error
	for _, hd := range rt.handlers {
		var r any
		err := b.invoke(ctx, hd, d, &r)
		if h.gone.Load() {
			return ErrHung
		}
		if err != nil && !outcomeOnly(err) {
			return err
		}
		if hd == rt.command {
			result, answer = r, err
		}
	}
	return b.reply(ctx, rt.command, d.Envelope, result, answer)
}

// outcomeOnly reports whether an error says what became of a command, without undoing it.
func outcomeOnly(err error) bool {
	return errors.Is(err, ErrDeferred) || errors.Is(err, ErrNotExecuted)
}

func (b *batch) scope(ctx context.Context, d *Delivery, limit time.Duration) (context.Context, context.CancelFunc) {
	if d.Envelope.TraceParent != "" {
		ctx = traceContext(ctx, d.Envelope)
	}
	ctx = &scope{Context: ctx, env: &d.Envelope, inTx: b.p.cfg.UnitOfWork != nil}
	return bounded(ctx, limit)
}

// bounded gives ctx a deadline. It can be canceled in any case: what is given up is told so.
func bounded(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if limit <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, limit)
}

func (b *batch) invoke(ctx context.Context, h *handler, d *Delivery, result *any) error {
	if b.p.cfg.Observer == nil && len(b.p.cfg.Behaviors) == 0 {
		r, err := h.one(ctx, d)
		*result = r
		return err
	}
	return b.observe(ctx, []*Delivery{d}, func(ctx context.Context) error {
		return b.p.behave(ctx, d, func(ctx context.Context) (err error) {
			*result, err = h.one(ctx, d)
			return err
		})
	})
}

// together runs messages whose handlers see many at once. Those that fail by themselves are left out, with what is
// behind them, and the rest runs again; if the call fails as a whole, they run one by one.
func (b *batch) together(ctx context.Context, items []*item) {
	if len(items) == 0 {
		return
	}
	err := b.call(ctx, items)
	switch {
	case err == nil:
		b.answered(items)
	case errors.Is(err, errOvertime):
		for _, it := range items {
			b.leaveOut(it)
		}
	case errors.Is(err, errSome):
		rest, after := b.without(ctx, items)
		b.together(ctx, rest)
		b.apart(ctx, after)
	case len(items) == 1:
		b.judge(ctx, items[0], err)
	default:
		b.apart(ctx, items)
	}
}

// apart runs messages one by one.
func (b *batch) apart(ctx context.Context, items []*item) {
	for _, it := range items {
		if b.admit(it) {
			b.together(ctx, []*item{it})
		}
	}
}

// answered gives messages their fate whose call has succeeded, and has answered what it rejected.
func (b *batch) answered(items []*item) {
	for _, it := range items {
		if no := AsRejection(it.d.Err); no != nil {
			b.refused(it, no)
		} else {
			it.fate = handled
		}
	}
}

var errSome = errors.New("cqrs: some messages of the batch failed")

// without judges the messages that failed and returns those that may run again. One that failed behind another of its
// queue that runs again has seen what was undone: it comes after them, with those behind it.
func (b *batch) without(ctx context.Context, items []*item) (rest, after []*item) {
	again, waits := map[string]bool{}, map[string]bool{}
	for _, it := range items {
		failed, q := failsAlone(it.d.Err), it.queue
		switch {
		case q != "" && (waits[q] || failed && again[q]):
			waits[q] = true
			after = append(after, it)
		case failed && (q == "" || !b.left[q] && !b.blocked[q]):
			b.judge(ctx, it, it.d.Err)
		case b.admit(it):
			again[q] = true
			rest = append(rest, it)
		}
	}
	return rest, after
}

// undone marks a rejection by a one-message handler or by a reply's hook in a batch: what was written has to go.
type undone struct{ error }

func (u undone) Unwrap() error { return u.error }

// failsAlone reports whether a message's own error undoes the call it was in.
func failsAlone(err error) bool {
	if err == nil {
		return false
	}
	return errors.As(err, new(undone)) || AsRejection(err) == nil && !outcomeOnly(err)
}

// call calls the handlers of items, which are the same for all, in one part.
func (b *batch) call(ctx context.Context, items []*item) error {
	return b.p.do(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		all, rt := deliveries(items), items[0].route
		return b.guard(rt, items, func(h *hand) error { return b.callAll(ctx, h, rt, all) })
	})
}

// callAll runs on the lane's hand.
func (b *batch) callAll(ctx context.Context, h *hand, rt *route, all []*Delivery) error {
	ds := b.admitted(ctx, rt, all)
	results := make([]any, len(ds))
	for _, hd := range rt.handlers {
		err := b.callOne(ctx, rt, hd, ds, results)
		if h.gone.Load() {
			return ErrHung
		}
		if err != nil {
			return err
		}
	}
	return b.repliesOf(ctx, rt, all, ds, results)
}

// admitted returns the deliveries that behaviors let through.
func (b *batch) admitted(ctx context.Context, rt *route, all []*Delivery) []*Delivery {
	ds := make([]*Delivery, 0, len(all))
	for _, d := range all {
		d.Err = nil
		if len(b.p.cfg.Behaviors) > 0 {
			sctx, cancel := b.scope(ctx, d, rt.limit)
			d.Err = b.p.behave(sctx, d, func(context.Context) error { return nil })
			cancel()
		}
		if d.Err == nil {
			ds = append(ds, d)
		}
	}
	return ds
}

func (b *batch) callOne(ctx context.Context, rt *route, h *handler, ds []*Delivery, results []any) error {
	if len(ds) == 0 {
		return nil
	}
	if h.many == nil {
		for i, d := range ds {
			if d.Err != nil {
				continue
			}
			r, err := b.oneOf(ctx, rt, h, d)
			if AsRejection(err) != nil {
				err = undone{err}
			}
			d.Err, results[i] = err, r
		}
		return nil
	}
	ctx, cancel := bounded(b.batchScope(ctx, ds), rt.limit)
	defer cancel()
	err := b.observe(ctx, ds, func(ctx context.Context) error { return h.many(ctx, ds, results) })
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

func (b *batch) oneOf(ctx context.Context, rt *route, h *handler, d *Delivery) (any, error) {
	ctx, cancel := b.scope(ctx, d, rt.limit)
	defer cancel()
	var r any
	err := b.observe(ctx, []*Delivery{d}, func(ctx context.Context) (err error) {
		r, err = h.one(ctx, d)
		return err
	})
	return r, err
}

// repliesOf answers all, also what was rejected: a reply that fails later would have its message run again after those
// behind it. If anything failed by itself, all is undone.
func (b *batch) repliesOf(ctx context.Context, rt *route, all, ds []*Delivery, results []any) error {
	for _, d := range all {
		if failsAlone(d.Err) {
			return errSome
		}
	}
	var answers map[*Delivery]any
	for _, d := range all {
		if !rt.command.answers(&d.Envelope, d.Err) {
			continue
		}
		if answers == nil {
			answers = make(map[*Delivery]any, len(ds))
			for i, d := range ds {
				answers[d] = results[i]
			}
		}
		sctx, cancel := b.scope(ctx, d, rt.limit)
		err := b.reply(sctx, rt.command, d.Envelope, answers[d], d.Err)
		cancel()
		if err != nil {
			d.Err = undone{err}
			return errSome
		}
	}
	return nil
}
