package flow

import (
	"errors"
	"fmt"

	"github.com/surge-go/surge/cqrs"
)

// reply takes the answer to a command. Only the current incarnation's counts, whichever of its tries it answers;
// everything else is a duplicate or too late, and changes nothing.
func (r *run) reply(input Input) {
	n, m := r.g.byName[input.Step], r.c.Mark(input.Step)
	switch {
	case n == nil || m == nil || r.c.Phase.Ended():
	case input.Undo && m.State == Undoing && max(m.Inc, 1) == input.Inc:
		r.note(Entry{What: "undo reply", Step: n.Name, Inc: input.Inc, Note: string(input.Outcome)})
		r.undoReply(n, m, input)
	case !input.Undo && m.State == Out && m.Inc == input.Inc:
		r.note(Entry{What: "reply", Step: n.Name, Inc: input.Inc, Note: string(input.Outcome)})
		r.doReply(n, m, input)
	}
}

func (r *run) doReply(n *Node, m *Mark, input Input) {
	state := r.in.frame(n.Frame)
	m.Stuck = false
	switch input.Outcome {
	case cqrs.OutcomeOK:
		if n.Done != nil {
			value := n.NewReply()
			if err := r.decode(input.Payload, value); err != nil {
				r.fail(fmt.Errorf("reply to %s: %w", n.Name, err))
				return
			}
			n.Done(state, value)
		}
		m.State, m.Due = OK, 0
	case cqrs.OutcomeRejected:
		no := &cqrs.Rejection{Code: input.Code, Err: errors.New(input.Text)}
		if n.Rejected != nil {
			n.Rejected(state, no)
		}
		r.refuse(n, m, no.Error())
	case cqrs.OutcomeNotExecuted:
		r.notExecuted(n, m)
	default:
		r.fail(fmt.Errorf("reply to %s: outcome %q", n.Name, input.Outcome))
	}
}

// notExecuted ends an incarnation: what was sent under it will never run. The next one may be sent.
func (r *run) notExecuted(n *Node, m *Mark) {
	if m.Try >= n.Tries || r.c.Phase == Settling {
		r.refuse(n, m, "not executed")
		return
	}
	m.State, m.Due = Paused, r.now+n.backoff(m.Try)
	m.Inc++
	m.Try++
}

func (r *run) undoReply(n *Node, m *Mark, input Input) {
	switch input.Outcome {
	case cqrs.OutcomeOK:
		m.State, m.Due, m.Stuck = Undone, 0, false
	case cqrs.OutcomeRejected:
		r.stick(m, fmt.Sprintf("%s: undo refused: %s: %s", n.Name, input.Code, input.Text))
	case cqrs.OutcomeNotExecuted:
		if !m.Stuck {
			m.Due = r.now + n.backoff(m.Try)
		}
	default:
		r.fail(fmt.Errorf("reply to undo of %s: outcome %q", n.Name, input.Outcome))
	}
}

// event takes what a Wait waits for, also if its time has run out and it is stuck. One that comes early is stashed
// under the instance's version.
func (r *run) event(input Input) {
	if r.c.Phase.Ended() {
		return
	}
	early := false
	for _, n := range r.g.waits[input.Event] {
		m := r.c.Mark(n.Name)
		if m != nil && (m.State == Waiting || m.Stuck) {
			r.happened(n, m, input)
			return
		}
		early = early || m == nil
	}
	if early && r.c.Phase != Settling && r.c.Phase != Unwind {
		r.c.Stash = append(r.c.Stash, input)
		r.note(Entry{What: "stash", Note: input.Event})
	}
}

func (r *run) happened(n *Node, m *Mark, input Input) {
	value := n.NewEvent()
	if err := r.decode(input.Payload, value); err != nil {
		r.fail(fmt.Errorf("event for %s: %w", n.Name, err))
		return
	}
	if n.On != nil {
		n.On(r.in.frame(n.Frame), value)
	}
	m.State, m.Due, m.Stuck = OK, 0, false
	r.note(Entry{What: "event", Step: n.Name, Note: input.Event})
}

// unstash gives a Wait that begins the oldest event that came before it.
func (r *run) unstash(n *Node, m *Mark) {
	for i, s := range r.c.Stash {
		if s.Kind == Event && s.Event == n.Gets {
			r.c.Stash = append(r.c.Stash[:i:i], r.c.Stash[i+1:]...)
			r.happened(n, m, s)
			return
		}
	}
}

// stop takes a request to cancel. It only sets a flag: where the pivot stands decides what becomes of it.
func (r *run) stop(input Input) {
	again := r.c.Phase == Completed && r.refunds()
	if r.c.Cancel || (r.c.Phase.Ended() && !again) {
		return
	}
	r.c.Cancel = true
	r.note(Entry{What: "cancel", Note: input.Text})
	if r.c.Phase == Settling || r.c.Phase == Unwind {
		return
	}
	if r.g.Cancel != nil && r.g.Cancel.Note != nil {
		r.g.Cancel.Note(r.in.State, input.Text)
	}
	if again {
		r.phase(Turn, "cancelled")
	}
}

// decode reads a payload. An empty one leaves the value as it is: a reply that says nothing.
func (r *run) decode(data []byte, into any) error {
	if len(data) == 0 {
		return nil
	}
	return r.env.Decode(data, into)
}

// timer does what is due. It always changes the instance: its due time has to move.
func (r *run) timer() {
	if r.c.Phase.Ended() {
		return
	}
	r.out.Changed = true
	for _, m := range r.c.Marks {
		if m.Due == 0 || m.Due > r.now || m.Stuck {
			continue
		}
		n := r.g.byName[m.Node]
		switch m.State {
		case Out:
			r.late(n, m)
		case Undoing:
			r.lateUndo(n, m)
		case Waiting:
			r.note(Entry{What: "timeout", Step: n.Name})
			r.refuse(n, m, "timed out")
		case Paused:
			if r.c.Phase != Settling { // something else has failed at this very time
				r.again(n, m)
			}
		}
	}
}

func (r *run) again(n *Node, m *Mark) {
	if n.Kind == Local {
		m.State, m.Due = Ready, 0
		return
	}
	m.State = Out
	r.send(n, m)
}

// late follows a command whose reply did not come in time: its outcome is in doubt. It is sent again under the
// same token, and given up only where a participant can settle it by being asked to undo it.
func (r *run) late(n *Node, m *Mark) {
	r.note(Entry{What: "timeout", Step: n.Name, Inc: m.Inc, Try: m.Try})
	switch {
	case r.c.Phase == Settling:
		m.State, m.Due = Doubt, 0
	case m.Try < n.Tries:
		m.Try++
		r.send(n, m)
	case n.Pivot || n.Forward || n.Then == Park:
		r.stick(m, n.Name+": in doubt")
	default:
		m.State, m.Due = Doubt, 0
		r.phase(Settling, n.Name+": in doubt")
	}
}

func (r *run) lateUndo(n *Node, m *Mark) {
	r.note(Entry{What: "timeout", Step: n.Name, Inc: m.Inc, Try: m.Try})
	if m.Try >= n.Tries {
		r.stick(m, n.Name+": undo in doubt")
		return
	}
	m.Try++
	r.sendUndo(n, m)
}
