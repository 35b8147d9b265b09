// Package operator lists sagas and helps those that are stuck.
//
// Every action names who acts and why, and is journaled with the instance. What would break a promise is refused:
// a pivot in doubt is neither passed nor undone by [Operator.Skip] or [Operator.Abort], it is retried under its
// token, or settled by somebody who has found out what became of it ([Operator.Settle]). The one way around every
// promise is [Operator.Complete], which ends a saga where it stands.
//
//	status      means                                    what helps
//	parked      a step in doubt, refused behind the      Retry; Settle; Skip; Abort before the pivot
//	            pivot, or an undo that failed
//	suspended   a definition's function panicked, or     repair the program, or Patch the state; then Retry
//	            a reply or the state is unreadable
//
// It is safe for concurrent use.
package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga"
)

// ErrTooWide refuses an action on all sagas of all types: a filter for many names at least a type.
var ErrTooWide = errors.New("operator: the filter names no type")

// Operator acts on the sagas of an engine.
type Operator struct{ e *saga.Engine }

// New returns the operator of an engine's database. The engine need not run, but the actions' commands leave only
// through its outbox.
func New(e *saga.Engine) *Operator { return &Operator{e} }

// By names who acts, and why. Both are required.
type By struct{ Actor, Reason string }

// List yields the instances that f chooses, the oldest first.
func (o *Operator) List(ctx context.Context, f saga.Filter) iter.Seq2[saga.Summary, error] {
	return o.e.List(ctx, f)
}

// Journal returns what happened to an instance, oldest first, or saga.ErrNotFound.
func (o *Operator) Journal(ctx context.Context, typ, key string) ([]saga.Transition, error) {
	return o.e.Journal(ctx, typ, key)
}

// Retry tries again what is stuck in the instances that f chooses: commands in doubt under their old tokens, refused
// ones under new ones. Suspended instances go on with what came meanwhile. It returns how many it could help, and
// the joined errors of the others. Without a status f means parked and suspended ones; with a key, that one whatever
// its status.
func (o *Operator) Retry(ctx context.Context, f saga.Filter, by By) (int, error) {
	return o.each(ctx, f, by, saga.ActRetry, saga.Parked, saga.Suspended)
}

// Skip lets instances go on as if what is stuck were done. Steps before the pivot are undone later all the same, if
// it comes to that. Without a status f means parked ones; keys and results are as with Retry.
func (o *Operator) Skip(ctx context.Context, f saga.Filter, by By) (int, error) {
	return o.each(ctx, f, by, saga.ActSkip, saga.Parked)
}

// Abort undoes instances, which then end aborted. Without a status f means parked ones; keys and results are as with
// Retry.
func (o *Operator) Abort(ctx context.Context, f saga.Filter, by By) (int, error) {
	return o.each(ctx, f, by, saga.ActAbort, saga.Parked)
}

// Settle tells what became of a command in doubt: cqrs.OutcomeOK, or cqrs.OutcomeNotExecuted if it certainly had no
// effect, and never will.
func (o *Operator) Settle(ctx context.Context, typ, key, step string, out cqrs.Outcome, by By) error {
	return o.e.Intervene(ctx, saga.Intervention{
		Type: typ, Key: key, Action: saga.ActSettled, Step: step, Outcome: out, Actor: by.Actor, Reason: by.Reason,
	})
}

// Complete ends an instance where it stands: nothing more is sent, nothing is undone.
func (o *Operator) Complete(ctx context.Context, typ, key string, end saga.Status, by By) error {
	return o.e.Intervene(ctx, saga.Intervention{
		Type: typ, Key: key, Action: saga.ActComplete, End: end, Actor: by.Actor, Reason: by.Reason,
	})
}

// Patch replaces an instance's state by what state encodes to as JSON.
func (o *Operator) Patch(ctx context.Context, typ, key string, state any, by By) error {
	data, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("operator: encode state: %w", err)
	}
	return o.e.Intervene(ctx, saga.Intervention{
		Type: typ, Key: key, Action: saga.ActPatch, State: data, Actor: by.Actor, Reason: by.Reason,
	})
}

// each acts on the instances that f chooses. Without a status and a key these are the ones with a status of its own.
func (o *Operator) each(ctx context.Context, f saga.Filter, by By, a saga.Action, own ...saga.Status) (int, error) {
	if f.Type == "" {
		return 0, ErrTooWide
	}
	if len(f.Status) == 0 && f.Key == "" {
		f.Status = own
	}
	n, errs := 0, []error(nil)
	for s, err := range o.e.List(ctx, f) {
		if err != nil {
			return n, errors.Join(append(errs, err)...)
		}
		err := o.e.Intervene(ctx, saga.Intervention{
			Type: s.Type, Key: s.Key, Action: a, Actor: by.Actor, Reason: by.Reason,
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %q: %w", s.Type, s.Key, err))
			continue
		}
		n++
	}
	return n, errors.Join(errs...)
}
