package cqrs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
)

// Execute runs a command's handler in this process and returns its result once it is committed.
// Concurrent callers share transactions. It works before Run. Inside a unit of work it runs inline, as a part of it
// that is undone alone when it fails.
//
// With Keys configured and an idempotency key in ctx, a command that was executed before is not run: its stored
// result is returned, as JSON keeps it whatever the catalog's codec, or its [Rejection], of which only code and text
// are kept. Errors: [ErrNoHandler], the handler's, the unit of work's. A panic of the handler continues in the caller.
func Execute[R any](ctx context.Context, p *Processor, cmd Request[R]) (R, error) {
	if p.cfg.Observer != nil {
		return observeExecute(ctx, p, cmd)
	}
	return execute(ctx, p, cmd)
}

func execute[R any](ctx context.Context, p *Processor, cmd Request[R]) (R, error) {
	var none R
	h := (*p.requests.Load())[reflect.TypeOf(cmd)]
	if h == nil {
		return none, fmt.Errorf("%w: %T", ErrNoHandler, cmd)
	}
	ex, ok := h.exec.(executor[R])
	if !ok {
		return none, fmt.Errorf("%w: that of %T returns another type than %T", ErrNoHandler, cmd, none)
	}
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if p.cfg.UnitOfWork == nil && p.cfg.Keys == nil {
		return executePlain(ctx, p, h, ex, cmd)
	}
	return executeInUnit(ctx, p, h, ex, cmd)
}

// executor runs a command whose result is an R without boxing it.
type executor[R any] interface {
	execute(ctx context.Context, p *Processor, cmd any) (R, error)
}

type single[C Request[R], R any] struct {
	h  *handler
	fn func(context.Context, C) (R, error)
}

func (s single[C, R]) execute(ctx context.Context, p *Processor, cmd any) (R, error) {
	if s.h.check == nil && len(p.cfg.Behaviors) == 0 {
		return s.fn(ctx, cmd.(C))
	}
	return admitted(ctx, p, s.h, cmd, func(ctx context.Context) (R, error) { return s.fn(ctx, cmd.(C)) })
}

type batched[C Request[R], R any] struct {
	h  *handler
	fn func(context.Context, []*Item[C, R]) error
}

func (b batched[C, R]) execute(ctx context.Context, p *Processor, cmd any) (R, error) {
	return admitted(ctx, p, b.h, cmd, func(ctx context.Context) (R, error) {
		env, _ := EnvelopeOf(ctx)
		it := &Item[C, R]{Message: cmd.(C), Envelope: env}
		if err := b.fn(ctx, []*Item[C, R]{it}); err != nil {
			return it.result, err
		}
		return it.result, it.err
	})
}

// admitted validates, and runs the behaviors around run.
func admitted[R any](
	ctx context.Context, p *Processor, h *handler, cmd any, run func(context.Context) (R, error),
) (R, error) {
	var r R
	if h.check != nil {
		if err := h.check(cmd); err != nil {
			return r, err
		}
	}
	if len(p.cfg.Behaviors) == 0 {
		return run(ctx)
	}
	env, _ := EnvelopeOf(ctx)
	d := &Delivery{Envelope: env, Message: cmd}
	err := p.behave(ctx, d, func(ctx context.Context) (err error) {
		r, err = run(ctx)
		return err
	})
	return r, err
}

var errKept = errors.New("cqrs: a behavior kept the message from its handler")

// behave runs the behaviors around last, outermost first. One that neither goes on nor says why has failed: what it
// kept would pass for handled.
func (p *Processor) behave(ctx context.Context, d *Delivery, last func(context.Context) error) error {
	if len(p.cfg.Behaviors) == 0 {
		return last(ctx)
	}
	went := false
	err := runBehaviors(ctx, p.cfg.Behaviors, d, func(ctx context.Context) error {
		went = true
		return last(ctx)
	})
	if err == nil && !went {
		return errKept
	}
	return err
}

func runBehaviors(ctx context.Context, bs []Behavior, d *Delivery, last func(context.Context) error) error {
	if len(bs) == 0 {
		return last(ctx)
	}
	return bs[0](ctx, d, func(ctx context.Context) error { return runBehaviors(ctx, bs[1:], d, last) })
}

func executePlain[R any](ctx context.Context, p *Processor, h *handler, ex executor[R], cmd any) (R, error) {
	if scopeOf(ctx) == nil {
		ctx = &scope{Context: ctx}
	}
	if h.locks != nil {
		locked, unlock, err := p.locks.lock(ctx, lockNames(h.locks(cmd)))
		if err != nil {
			var none R
			return none, err
		}
		ctx = locked
		defer unlock()
	}
	r, err := ex.execute(ctx, p, cmd)
	if len(h.onReply) == 0 {
		return r, err
	}
	return r, errors.Join(err, p.announce(ctx, h, p.executed(ctx, cmd), r, err))
}

// outcome is what Keys stores of an execution.
type outcome[R any] struct {
	Result   R              `json:"result"`
	Rejected *rejectionText `json:"rejected,omitempty"`
	Other    string         `json:"other,omitempty"` // "deferred" or "not_executed"
}

func (o *outcome[R]) err() error {
	switch {
	case o.Rejected != nil:
		return o.Rejected.rejection()
	case o.Other == deferredOutcome:
		return ErrDeferred
	case o.Other == string(OutcomeNotExecuted):
		return ErrNotExecuted
	}
	return nil
}

const deferredOutcome = "deferred"

// executeInUnit gives the command a part of the transaction, and with Keys its outcome to the key.
func executeInUnit[R any](ctx context.Context, p *Processor, h *handler, ex executor[R], cmd any) (R, error) {
	inline := p.InTransaction(ctx)
	keyed := p.cfg.Keys != nil && !inline
	ctx = unitScope(ctx, p.cfg.UnitOfWork != nil)
	var none R
	var locks []string
	if h.locks != nil {
		locks = lockNames(h.locks(cmd))
	}
	if len(locks) > 0 && p.cfg.Locker == nil && !inline {
		locked, unlock, err := p.locks.lock(ctx, locks)
		if err != nil {
			return none, err
		}
		ctx = locked
		defer unlock()
	}
	var out outcome[R]
	run := func(ctx context.Context) error {
		out = outcome[R]{}
		return executePart(ctx, p, h, ex, cmd, &out)
	}
	var refusal error
	answered := func(ctx context.Context) error { // a rejection is stored and told, beside what it has undone
		refusal = p.do(ctx, run)
		no := AsRejection(refusal)
		if no == nil {
			return refusal
		}
		out = outcome[R]{Rejected: textOf(no)}
		if len(h.onReply) == 0 {
			return nil
		}
		return p.announce(ctx, h, p.executed(ctx, cmd), nil, no)
	}
	err := p.do(ctx, func(ctx context.Context) error {
		if len(locks) > 0 && p.cfg.Locker != nil {
			if err := p.cfg.Locker.Lock(ctx, locks); err != nil {
				return err
			}
		}
		out, refusal = outcome[R]{}, nil
		switch {
		case keyed:
			return p.cfg.Keys.Once(ctx, &out, answered)
		case len(h.onReply) > 0:
			return answered(ctx)
		}
		return run(ctx)
	})
	switch {
	case err != nil:
		return none, err
	case refusal != nil && !keyed:
		return none, refusal
	}
	return out.Result, out.err()
}

// executePart runs the handler. ErrDeferred and ErrNotExecuted are outcomes that commit.
func executePart[R any](
	ctx context.Context, p *Processor, h *handler, ex executor[R], cmd any, out *outcome[R],
) error {
	if limit := cmp.Or(h.timeout, p.cfg.HandlerTimeout); limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	r, err := ex.execute(ctx, p, cmd)
	switch {
	case errors.Is(err, ErrDeferred):
		out.Other = deferredOutcome
		return nil
	case errors.Is(err, ErrNotExecuted):
		out.Other = string(OutcomeNotExecuted)
	case err != nil:
		return err
	default:
		out.Result = r
	}
	if len(h.onReply) == 0 {
		return nil
	}
	return p.announce(ctx, h, p.executed(ctx, cmd), r, out.err())
}

func lockNames(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}
