package sagatest

import (
	"errors"
	"slices"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga/internal/flow"
)

// moves lists everything that can happen in w.
func (x *explorer) moves(w *world, in *flow.Instance) ([]*world, error) {
	all, err := x.deliveries(w)
	for _, more := range []func(*world, *flow.Instance) ([]*world, error){x.time, x.events, x.people} {
		if err != nil {
			return nil, err
		}
		var list []*world
		list, err = more(w, in)
		all = append(all, list...)
	}
	return all, err
}

func (x *explorer) deliveries(w *world) (all []*world, err error) {
	for _, p := range w.mail {
		for _, twice := range []bool{false, true} {
			if twice && (w.faults == 0 || p.copied) {
				continue
			}
			if p.outcome == "" {
				all = append(all, x.command(w, p, twice)...)
				continue
			}
			next, err := x.reply(w, p, twice)
			if err != nil {
				return nil, err
			}
			all = append(all, next)
		}
	}
	return all, nil
}

func often(p parcel, twice bool) string {
	if twice {
		return "deliver, and not for the last time, " + p.String()
	}
	return "deliver " + p.String()
}

func (x *explorer) reply(w *world, p parcel, twice bool) (*world, error) {
	t, _ := flow.ParseToken(p.token)
	in := flow.Input{
		Kind: flow.Reply, Step: t.Step, Inc: t.Inc, Undo: t.Aim != flow.ToDo, Outcome: p.outcome,
	}
	switch n := x.stage.g.Node(t.Step); {
	case p.outcome == cqrs.OutcomeRejected:
		in.Code, in.Text = "refused", "by the explorer"
	case p.outcome == cqrs.OutcomeOK && !in.Undo:
		value := n.NewReply()
		fill(value, n.Name)
		in.Payload = encode(value)
	}
	next, err := x.happen(w, in, often(p, twice))
	if err == nil {
		next.take(p, twice)
	}
	return next, err
}

// command plays what a participant may make of a command.
func (x *explorer) command(w *world, p parcel, twice bool) []*world {
	t, _ := flow.ParseToken(p.token)
	n := x.stage.g.Node(t.Step)
	row := t.Of().String()
	answer := func(f fate, o cqrs.Outcome, cost int) *world {
		next := w.next(often(p, twice) + ": " + string(f))
		next.take(p, twice)
		next.faults -= cost
		next.parts[row] = f
		next.put(parcel{token: p.token, outcome: o})
		return next
	}
	before, known := w.parts[row]
	switch {
	case t.Aim == flow.ToUndo && before == did:
		return []*world{answer(undid, cqrs.OutcomeOK, 0), answer(did, cqrs.OutcomeRejected, 1)}
	case t.Aim == flow.ToUndo && !known:
		return []*world{answer(barred, cqrs.OutcomeOK, 0)}
	case t.Aim == flow.ToUndo:
		return []*world{answer(before, cqrs.OutcomeOK, 0)}
	case known:
		return []*world{answer(before, replyOf[before], 0)}
	}
	all := []*world{answer(did, cqrs.OutcomeOK, 0), answer(barred, cqrs.OutcomeNotExecuted, 1)}
	if !n.Forward {
		all = append(all, answer(refused, cqrs.OutcomeRejected, 1))
	}
	return all
}

// replyOf is what a participant says to a do that it knows.
var replyOf = map[fate]cqrs.Outcome{
	did: cqrs.OutcomeOK, refused: cqrs.OutcomeRejected, barred: cqrs.OutcomeNotExecuted, undid: cqrs.OutcomeNotExecuted,
}

// time plays timers: one of them, and, as one fault, all until the saga gives up on what it waits for.
func (x *explorer) time(w *world, in *flow.Instance) ([]*world, error) {
	if w.faults == 0 && !w.quiet() {
		return nil, nil
	}
	one, err := x.tick(w, in, "time passes until a timer is due")
	if one == nil || err != nil {
		return nil, err
	}
	if w.quiet() {
		return []*world{one}, nil
	}
	one.faults--
	last := one
	for range 50 {
		inst, err := x.stage.g.Decode(instanceID, last.state, last.cursor)
		if err != nil {
			return nil, &broken{err, last}
		}
		if inst.Cursor.Phase != in.Cursor.Phase || inst.Cursor.Stuck() {
			break
		}
		next, err := x.tick(last, inst, "time passes until the saga gives up")
		if err != nil {
			return nil, err
		}
		if next == nil {
			break
		}
		next.from = w
		last = next
	}
	return []*world{one, last}, nil
}

func (x *explorer) tick(w *world, in *flow.Instance, did string) (*world, error) {
	shifted := *w
	copied, err := x.stage.g.Decode(instanceID, w.state, w.cursor)
	if err != nil || !shifted.shift(copied) {
		return nil, err
	}
	next, err := x.happen(&shifted, flow.Input{Kind: flow.Timer}, did)
	if next != nil {
		next.from = w
	}
	return next, err
}

// events sends each Wait its event, once. Early is a fault.
func (x *explorer) events(w *world, in *flow.Instance) (all []*world, err error) {
	var nodes []*flow.Node
	x.stage.g.Each(func(n *flow.Node) {
		if n.Kind == flow.Wait && !slices.Contains(w.heard, n.Name) {
			nodes = append(nodes, n)
		}
	})
	for _, n := range nodes {
		m := in.Cursor.Mark(n.Name)
		early := m == nil || m.State != flow.Waiting
		if early && w.faults == 0 {
			continue
		}
		value := n.NewEvent()
		fill(value, n.Name)
		event := flow.Input{Kind: flow.Event, Event: n.Gets, Payload: encode(value)}
		next, err := x.happen(w, event, "event "+n.Gets)
		if err != nil {
			return nil, err
		}
		if early {
			next.faults--
		}
		next.heard = append(next.heard, n.Name)
		all = append(all, next)
	}
	return all, nil
}

// people cancels, once, and lets an operator retry what is parked when nothing is on its way any more.
func (x *explorer) people(w *world, in *flow.Instance) (all []*world, err error) {
	if w.faults == 0 {
		return nil, nil
	}
	if !w.cancelled {
		next, err := x.happen(w, flow.Input{Kind: flow.Stop, Text: "by the explorer"}, "somebody asks to cancel")
		if err != nil {
			return nil, err
		}
		next.cancelled = true
		next.faults--
		all = append(all, next)
	}
	if !in.Cursor.Stuck() || len(w.mail) > 0 {
		return all, nil
	}
	next, err := x.happen(w, flow.Input{Kind: flow.Retry, Text: "by the explorer"}, "an operator retries")
	if errors.Is(err, flow.ErrNotStuck) || errors.Is(err, flow.ErrEnded) {
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	next.faults--
	return append(all, next), nil
}
