package flow

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// Errors of operators' inputs, and of poisoned instances.
var (
	ErrPivotInDoubt = errors.New("saga: the pivot is in doubt: settle it first")
	ErrPastPivot    = errors.New("saga: the pivot is done: the saga only goes forward")
	ErrNotStuck     = errors.New("saga: nothing waits for an operator")
	ErrEnded        = errors.New("saga: the saga has ended")
	ErrPanic        = errors.New("saga: a function of the definition panicked")
)

// A run is one transition.
type run struct {
	g   *Graph
	in  *Instance
	c   *Cursor
	env Env
	now int64
	out Result
	err error
}

// Apply lets input happen to in, which it changes in place. After an error in is spoilt: the caller keeps a copy,
// or decodes it again. A [LocalError] asks to be applied again; the errors of operators' inputs refuse them; every
// other error means that the instance is poisoned.
func (g *Graph) Apply(in *Instance, input Input, env Env) (res Result, err error) {
	r := &run{g: g, in: in, c: &in.Cursor, env: env, now: millis(env.Now)}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %v\n%s", ErrPanic, v, debug.Stack())
		}
	}()
	r.take(input)
	r.advance()
	return r.out, r.err
}

func (r *run) take(input Input) {
	switch input.Kind {
	case Start:
		r.note(Entry{What: "start"})
	case Reply:
		r.reply(input)
	case Event:
		r.event(input)
	case Timer:
		r.timer()
	case Stop:
		r.stop(input)
	default:
		r.operator(input)
	}
}

// advance moves until the instance waits for something from outside.
func (r *run) advance() {
	for r.err == nil {
		phase := r.c.Phase
		switch phase {
		case Forward:
			r.forward()
		case Settling:
			r.settle()
		case Unwind:
			r.unwind()
		case Turn:
			r.turn()
		case Refund:
			if r.walkAll(r.g.Cancel.Kids) {
				r.end(Cancelled)
			}
		}
		if r.c.Phase == phase {
			return
		}
	}
}

func (r *run) forward() {
	if r.c.Cancel {
		switch p := r.pivot(); {
		case p == nil || p.State == Paused:
			r.phase(Settling, "cancelled")
			return
		case r.refunds():
			r.phase(Turn, "cancelled")
			return
		}
	}
	if r.walkAll(r.g.Root.Kids) {
		r.end(Completed)
	}
}

// pivot returns the pivot's mark: nil until its command was written.
func (r *run) pivot() *Mark {
	if r.g.pivot == nil {
		return nil
	}
	return r.c.Mark(r.g.pivot.Name)
}

// refunds reports whether a cancel runs the cancel branch: only what the pivot did is refunded.
func (r *run) refunds() bool {
	p := r.pivot()
	return p != nil && p.State == OK && r.g.Cancel != nil && len(r.g.Cancel.Kids) > 0
}

// settle waits, before the first undo, for what is in flight.
func (r *run) settle() {
	busy := false
	for _, m := range r.c.Marks {
		switch m.State {
		case Paused, Ready, Waiting:
			m.State, m.Due, m.Stuck = Skipped, 0, false
		case Refused:
			m.Stuck = false
		case Out:
			if m.Stuck {
				m.State, m.Due, m.Stuck = Doubt, 0, false
				continue
			}
			busy = true
		}
	}
	if !busy {
		r.phase(Unwind, "")
	}
}

// turn waits, before the cancel branch, for what is in flight behind the pivot. What is stuck there in doubt stays
// stuck until an operator has settled it; what was refused for certain is simply left.
func (r *run) turn() {
	busy := false
	for _, m := range r.c.Marks {
		switch m.State {
		case Paused, Ready, Waiting:
			m.State, m.Due, m.Stuck = Skipped, 0, false
		case Refused:
			m.Stuck = false
		case Out:
			busy = true
		}
	}
	if !busy {
		r.phase(Refund, "")
	}
}

func (r *run) phase(p Phase, why string) {
	r.c.Phase, r.out.Changed = p, true
	if why != "" {
		r.c.Reason = why
	}
	r.note(Entry{What: "phase", Note: string(p)})
}

func (r *run) end(p Phase) {
	r.phase(p, "")
	r.c.Stash = nil
}

func (r *run) note(e Entry) {
	r.out.Changed = true
	r.out.Entries = append(r.out.Entries, e)
}

func (r *run) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}
