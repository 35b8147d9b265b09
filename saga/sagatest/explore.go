package sagatest

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/internal/flow"
)

// Faults is how many things may go wrong in one history that [Explore] plays: an answer other than ok, silence until
// the saga gives up, a duplicate, a timer ahead of a reply, an early event, a request to cancel, an operator's retry.
// Orders of deliveries are not faults: all of them are played.
const Faults = 2

// Invariant is checked in every state that [Explore] reaches. It gets the instance as an observer would read it;
// replies and events are filled with non-zero values.
type Invariant[S any] func(saga.Instance[S]) error

// Explore plays every history of one instance with up to [Faults] faults, and fails t with the shortest that breaks
// an invariant: one of inv, or one of those that the package comment lists. The search is breadth first over distinct
// states, so its cost grows with the definition's width, not with the number of histories.
func Explore[S any](t testing.TB, d *saga.Definition[S], start S, inv ...Invariant[S]) {
	t.Helper()
	explore(t, d, start, Faults, inv)
}

func explore[S any](t testing.TB, d *saga.Definition[S], start S, faults int, inv []Invariant[S]) int {
	t.Helper()
	x := &explorer{stage: stage{g: d.Graph()}, seen: map[uint64]bool{}}
	x.invariant = func(in *flow.Instance) error {
		i := d.Snapshot("test", in)
		for _, f := range inv {
			if err := f(i); err != nil {
				return err
			}
		}
		return nil
	}
	state, cursor, err := (&flow.Instance{ID: instanceID, State: &start}).Encode()
	if err != nil {
		t.Fatalf("sagatest: %v", err)
	}
	w := &world{state: state, cursor: cursor, faults: faults, parts: map[string]fate{}}
	w, err = x.happen(w, flow.Input{Kind: flow.Start}, "start")
	for queue := []*world{w}; err == nil && len(queue) > 0; queue = queue[1:] {
		var next []*world
		next, err = x.successors(queue[0])
		queue = append(queue, next...)
	}
	if err != nil {
		t.Fatalf("sagatest: %s: %v", d.Name(), err)
	}
	return len(x.seen)
}

// A broken invariant, with the history that broke it.
type broken struct {
	err error
	w   *world
}

func (b *broken) Error() string {
	var steps []string
	for w := b.w; w != nil && w.did != ""; w = w.from {
		steps = append([]string{w.did}, steps...)
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%v\n", b.err)
	for i, step := range steps {
		fmt.Fprintf(&s, "%3d. %s\n", i+1, step)
	}
	fmt.Fprintf(&s, "state %s\nplace %s", b.w.state, b.w.cursor)
	return s.String()
}

func (b *broken) Unwrap() error { return b.err }

type explorer struct {
	stage     stage
	seen      map[uint64]bool // by hash of what decides the future
	invariant func(*flow.Instance) error
}

// happen applies an input and returns the world after it.
func (x *explorer) happen(from *world, in flow.Input, did string) (*world, error) {
	w := from.next(did)
	inst, res, err := x.stage.apply(from.state, from.cursor, in, epoch)
	if err != nil {
		return nil, &broken{err, w}
	}
	if w.state, w.cursor, err = inst.Encode(); err != nil {
		return nil, &broken{err, w}
	}
	w.by, w.res, w.before = in, res, from
	for _, c := range res.Commands {
		w.put(parcel{token: c.Token.String()})
		if n := x.stage.g.Node(c.Token.Step); n.Pivot && c.Token.Aim != flow.ToDo {
			return nil, &broken{fmt.Errorf("the pivot %s is being undone", n.Name), w}
		}
	}
	return w, nil
}

var errImpure = errors.New("after a crash the transition comes out differently: is a function not pure?")

// repeats plays a crash before the commit: the input happens again, to the same instance.
func (x *explorer) repeats(w *world) bool {
	again, res, err := x.stage.apply(w.before.state, w.before.cursor, w.by, epoch)
	if err != nil {
		return false
	}
	state, cursor, err := again.Encode()
	same := err == nil && bytes.Equal(state, w.state) && bytes.Equal(cursor, w.cursor) && reflect.DeepEqual(res, w.res)
	w.before, w.res = nil, flow.Result{}
	return same
}

// successors plays everything that can happen next, and drops worlds that were seen before.
func (x *explorer) successors(w *world) ([]*world, error) {
	inst, err := x.stage.g.Decode(instanceID, w.state, w.cursor)
	if err != nil {
		return nil, &broken{err, w}
	}
	if err := x.check(w, inst); err != nil {
		return nil, &broken{err, w}
	}
	moves, err := x.moves(w, inst)
	if err != nil {
		return nil, err
	}
	if len(moves) == 0 && !inst.Cursor.Phase.Ended() && !inst.Cursor.Stuck() && !x.awaits(w, inst) {
		return nil, &broken{errors.New("the saga is stuck: nothing will ever happen again"), w}
	}
	var fresh []*world
	for _, m := range moves {
		if m.faults < 0 {
			continue
		}
		if key := m.key(); !x.seen[key] {
			if m.by.Kind != "" && m.before != nil && !x.repeats(m) {
				return nil, &broken{errImpure, m}
			}
			x.seen[key] = true
			fresh = append(fresh, m)
		}
	}
	return fresh, nil
}

// awaits reports whether in waits for an event that has no timeout and need not come.
func (x *explorer) awaits(w *world, in *flow.Instance) bool {
	for _, m := range in.Cursor.Marks {
		if m.State == flow.Waiting && !slices.Contains(w.heard, m.Node) {
			return true
		}
	}
	return false
}

// check holds the world against the caller's invariants and our own.
func (x *explorer) check(w *world, in *flow.Instance) error {
	if err := x.invariant(in); err != nil {
		return err
	}
	phase := in.Cursor.Phase
	if p := x.stage.g.Pivot(); p != nil && (phase == flow.Compensated || phase == flow.Aborted) {
		for inc := 1; ; inc++ {
			f, known := w.parts[token(p.Name, inc)]
			if !known {
				break
			}
			if f == did {
				return fmt.Errorf("ended %s although the pivot %s was done", phase, p.Name)
			}
		}
	}
	for _, m := range in.Cursor.Marks {
		n := x.stage.g.Node(m.Node)
		if phase.Ended() && (m.State == flow.Out || m.State == flow.Undoing) {
			return fmt.Errorf("ended %s before the command of %s has settled", phase, m.Node)
		}
		if n.Kind != flow.Step {
			continue
		}
		f := w.parts[token(m.Node, m.Inc)]
		undoable := n.Undo != nil && n.Undo.Build != nil
		switch {
		case (phase == flow.Compensated || phase == flow.Aborted) && undoable && f == did && m.State != flow.Skipped:
			return fmt.Errorf("ended %s, but %s has its effect still", phase, m.Node)
		case phase == flow.Completed && m.State == flow.OK && f != did:
			return fmt.Errorf("ended completed, but %s has no effect", m.Node)
		}
		for inc := 1; inc < m.Inc; inc++ {
			if w.parts[token(m.Node, inc)] == did {
				return fmt.Errorf("%s took effect under incarnation %d, which the saga has left for %d", m.Node, inc, m.Inc)
			}
		}
	}
	return nil
}

func token(step string, inc int) string {
	return flow.Token{Saga: instanceID, Step: step, Inc: inc, Aim: flow.ToDo}.String()
}
