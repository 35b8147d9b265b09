package saga

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga/internal/flow"
	"github.com/surge-go/surge/saga/internal/store"
)

// An Action is what an operator can do to an instance.
type Action string

// The actions.
const (
	ActRetry    Action = "retry"    // try again what is stuck; let a suspended instance go on
	ActSkip     Action = "skip"     // go on as if what is stuck were done; not past a pivot in doubt
	ActAbort    Action = "abort"    // undo everything; not from the pivot on
	ActSettled  Action = "settled"  // tell what became of a command in doubt
	ActComplete Action = "complete" // end it here, as Intervention.End
	ActPatch    Action = "patch"    // replace the state
)

// An Intervention is one action of an operator on one instance. Actor and Reason are required and journaled.
type Intervention struct {
	Type, Key     string
	Action        Action
	Actor, Reason string
	Step          string       // retry, skip: one step, "" means all that are stuck; settled: required
	Outcome       cqrs.Outcome // settled: ok or not_executed
	End           Status       // complete: Completed, Compensated, Cancelled or Aborted
	State         []byte       // patch: the new state as JSON
}

func (v Intervention) validate() error {
	if v.Actor == "" || v.Reason == "" {
		return errors.New("saga: an intervention needs an actor and a reason")
	}
	switch {
	case v.Action == ActSettled && v.Step == "":
		return errors.New("saga: settled needs a step")
	case v.Action == ActSettled && v.Outcome != cqrs.OutcomeOK && v.Outcome != cqrs.OutcomeNotExecuted:
		return fmt.Errorf("saga: settled as %q; ok or not_executed", v.Outcome)
	case v.Action == ActComplete && !v.End.Ended():
		return fmt.Errorf("saga: %q is no end", v.End)
	}
	return nil
}

// An operation is an intervention on its way, and its answer.
type operation struct {
	Intervention
	err error
}

// Intervene does what an operator decided, in a transaction, and journals who and why. It returns [ErrNotFound],
// [ErrNotStuck], [ErrEnded], [ErrPivotInDoubt] or [ErrPastPivot] where the action is refused; then nothing changes.
// Package operator is the friendlier way.
func (e *Engine) Intervene(ctx context.Context, v Intervention) error {
	if err := v.validate(); err != nil {
		return err
	}
	op := &operation{Intervention: v}
	err := e.work.Do(ctx, func(ctx context.Context) error {
		op.err = nil
		return e.take(ctx, work{key: store.Key{Type: v.Type, Key: v.Key}, op: op, input: op.input()})
	})
	if err != nil {
		return err
	}
	return op.err
}

func (o *operation) input() flow.Input {
	in := flow.Input{
		Step: o.Step, Outcome: o.Outcome, End: flow.Phase(o.End), Text: o.Actor + ": " + o.Reason,
	}
	in.Kind = map[Action]flow.InputKind{
		ActRetry: flow.Retry, ActSkip: flow.Skip, ActAbort: flow.Abort, ActSettled: flow.Settle,
		ActComplete: flow.Force, ActPatch: "patch",
	}[o.Action]
	return in
}

// operate lets an operator's action happen. One that is refused leaves the instance as it is.
func (e *Engine) operate(ctx context.Context, f *folding, w work) (err error) {
	w.op.err, err = e.apart(ctx, f, func(ctx context.Context) error { return e.act(ctx, f, w) })
	return err
}

// apart lets something happen to an instance that may be refused: then all of it is undone, what locals wrote too.
func (e *Engine) apart(ctx context.Context, f *folding, do func(context.Context) error) (refused, err error) {
	before := *f
	state, place, err := f.in.Encode()
	if err != nil {
		return nil, err
	}
	if f.home.graph.HasLocals() {
		err = e.work.Do(ctx, do)
	} else {
		err = do(ctx)
	}
	var stop *transient
	if err == nil || errors.As(err, &stop) {
		return nil, err
	}
	refused = err
	*f = before
	f.in, err = f.home.graph.Decode(before.in.ID, state, place)
	return refused, err
}

func (e *Engine) act(ctx context.Context, f *folding, w work) (err error) {
	defer recovered(&err)
	switch {
	case w.op.Action == ActPatch:
		return f.patch(w)
	case f.in.Cursor.Suspended:
		return e.resume(ctx, f, w)
	}
	return e.apply(ctx, f, w)
}

func (f *folding) patch(w work) error {
	state := f.home.graph.Blank()
	if err := json.Unmarshal(w.op.State, state); err != nil {
		return fmt.Errorf("saga: the new state is not one: %w", err)
	}
	f.in.State, f.changed = state, true
	f.entries = append(f.entries, flow.Entry{What: "operator", Note: "patch: " + w.input.Text})
	return nil
}

// unread decides what becomes of an instance that cannot be read because of cause. It returns the instance if an
// operator's patch takes the place of its state. To complete it needs no state. One that has ended stays as it is,
// unless somebody asks to cancel it.
func (e *Engine) unread(f *folding, cause error) (*flow.Instance, error) {
	var place flow.Cursor
	if err := json.Unmarshal([]byte(f.row.Place), &place); err != nil {
		return nil, cause
	}
	over := place.Phase.Ended() && !place.Suspended
	for _, w := range f.works {
		switch {
		case w.op == nil:
			over = over && w.input.Kind != flow.Stop
		case w.op.Action == ActPatch:
			row := *f.row
			row.State = string(w.op.State)
			return f.home.decode(&row)
		case w.op.Action == ActComplete && !place.Phase.Ended():
			return nil, e.completeUnread(f, &place, w, cause)
		}
	}
	if !over {
		return nil, cause
	}
	f.refuse(ErrEnded)
	return nil, nil
}

// completeUnread ends an instance and leaves its state as it is. Whatever else came is too late.
func (e *Engine) completeUnread(f *folding, place *flow.Cursor, w work, cause error) error {
	f.refuse(cause)
	w.op.err = nil
	place.Abandon()
	place.Phase, place.Suspended, place.Reason, place.Stash = w.input.End, false, "", nil
	data, err := json.Marshal(place)
	if err != nil {
		return err
	}
	next := *f.row
	next.Place, next.Status, next.Step, next.Reason, next.Due = string(data), string(w.op.End), "", "", 0
	f.next, f.changed = &next, true
	f.entries = []flow.Entry{
		{What: "operator", Note: string(w.input.Kind) + ": " + w.input.Text}, {What: "phase", Note: string(place.Phase)},
	}
	return e.stamp(f)
}

// refuse answers all operators.
func (f *folding) refuse(err error) {
	for _, w := range f.works {
		if w.op != nil {
			w.op.err = err
		}
	}
}

// resume lets a suspended instance go on, with everything that came meanwhile. A retry takes all of it or nothing.
// Any other action comes first, and then leaves out what still cannot be taken: it may be why the instance stood.
func (e *Engine) resume(ctx context.Context, f *folding, w work) error {
	stash := f.in.Cursor.Stash
	f.in.Cursor.Suspended, f.in.Cursor.Reason, f.in.Cursor.Stash = false, "", nil
	f.changed = true
	if w.op.Action == ActRetry {
		f.entries = append(f.entries, flow.Entry{What: "operator", Note: string(w.op.Action) + ": " + w.input.Text})
	} else if err := e.apply(ctx, f, w); err != nil {
		return err
	}
	for _, in := range stash {
		take := func(ctx context.Context) error { return e.apply(ctx, f, work{input: in, env: w.env}) }
		if w.op.Action == ActRetry {
			if err := take(ctx); err != nil {
				return err
			}
			continue
		}
		refused, err := e.apart(ctx, f, take)
		if err != nil {
			return err
		}
		if refused != nil {
			e.log.Error("message dropped", "id", f.in.ID, "kind", string(in.Kind), "error", refused)
			f.entries = append(f.entries, flow.Entry{
				What: "dropped", Step: in.Step, Note: string(in.Kind) + " " + in.Event + ": " + firstLine(refused.Error()),
			})
		}
	}
	return nil
}

// A Transition is one line of an instance's journal: what came in, what it led to, and what went out, at once.
type Transition struct {
	Version int64 // of the instance after it
	At      time.Time
	Entries []Entry
}

// An Entry is one thing that happened in a [Transition].
type Entry struct {
	What string // start, reply, event, timeout, send, undo, stuck, phase, operator, …
	Step string
	Inc  int    // the command's incarnation
	Try  int    // the command's try
	Note string // outcome, reason, who and why
}

// Journal returns what happened to an instance, oldest first, or [ErrNotFound].
func (e *Engine) Journal(ctx context.Context, typ, key string) ([]Transition, error) {
	var list []Transition
	err := e.within(ctx, func(ctx context.Context) error {
		list = nil
		r, err := e.load(ctx, typ, key)
		if err != nil {
			return err
		}
		notes, err := store.Notes(ctx, r.ID)
		if err != nil {
			return err
		}
		for _, n := range notes {
			t := Transition{Version: n.Version, At: time.UnixMilli(n.At).UTC()}
			var entries []flow.Entry
			if err := json.Unmarshal([]byte(n.Entries), &entries); err != nil {
				return fmt.Errorf("saga: decode journal: %w", err)
			}
			for _, en := range entries {
				t.Entries = append(t.Entries, Entry(en))
			}
			list = append(list, t)
		}
		return nil
	})
	return list, err
}
