package flow

import (
	"fmt"

	"github.com/surge-go/surge/cqrs"
)

// operator takes what a person decided. It is refused with an error where it would break a promise.
func (r *run) operator(input Input) {
	if r.c.Phase.Ended() {
		r.fail(ErrEnded)
		return
	}
	r.note(Entry{What: "operator", Step: input.Step, Note: string(input.Kind) + ": " + input.Text})
	switch input.Kind {
	case Retry:
		r.eachStuck(input, r.retry)
	case Skip:
		r.eachStuck(input, r.skip)
	case Abort:
		r.abort()
	case Settle:
		r.settled(input)
	case Force:
		r.c.Abandon()
		r.end(input.End)
	default:
		r.fail(fmt.Errorf("unknown input %q", input.Kind))
	}
}

func (r *run) eachStuck(input Input, f func(*Node, *Mark)) {
	found := false
	for _, m := range r.c.Marks {
		if m.Stuck && (input.Step == "" || input.Step == m.Node) {
			found = true
			f(r.g.byName[m.Node], m)
		}
	}
	if !found {
		r.fail(ErrNotStuck)
	}
}

// retry begins a new series of tries: under the same token if the outcome is in doubt, under a new incarnation
// after a definite failure.
func (r *run) retry(n *Node, m *Mark) {
	m.Stuck, m.Try = false, 1
	switch {
	case m.State == Undoing:
		r.sendUndo(n, m)
	case m.State == Out:
		r.send(n, m)
	case n.Kind == Local:
		m.State = Ready
	case n.Kind == Wait:
		m.State = Waiting
		m.Due = r.now + n.Timeout.Milliseconds()
		r.unstash(n, m)
	default:
		m.State = Out
		m.Inc++
		r.send(n, m)
	}
}

// skip goes on as if the node were done. A step before the pivot is undone later all the same, if it comes to that.
func (r *run) skip(n *Node, m *Mark) {
	if n.Pivot && m.State == Out {
		r.fail(fmt.Errorf("%s: %w", n.Name, ErrPivotInDoubt))
		return
	}
	m.Stuck = false
	switch {
	case m.State == Undoing:
		m.State = Undone
	case m.State == Out && !n.Forward:
		m.State = OK
	default:
		m.State = Skipped
	}
}

func (r *run) abort() {
	if p := r.pivot(); p != nil {
		switch p.State {
		case Out:
			r.fail(ErrPivotInDoubt)
			return
		case OK, Skipped:
			r.fail(ErrPastPivot)
			return
		}
	}
	r.c.Abort = true
	if r.c.Phase == Forward {
		r.phase(Settling, "aborted")
	}
}

// settled takes what an operator found out about a command in doubt, as if its participant had said so.
func (r *run) settled(input Input) {
	m := r.c.Mark(input.Step)
	if m == nil || !m.Stuck || m.State != Out && m.State != Undoing {
		r.fail(fmt.Errorf("%s: %w", input.Step, ErrNotStuck))
		return
	}
	n := r.g.byName[input.Step]
	switch {
	case m.State == Undoing && input.Outcome == cqrs.OutcomeOK:
		r.undoReply(n, m, input)
	case m.State == Out && input.Outcome == cqrs.OutcomeNotExecuted:
		m.Stuck = false
		r.refuse(n, m, "not executed, says an operator")
	case m.State == Out:
		r.doReply(n, m, input)
	default:
		r.fail(fmt.Errorf("%s: an undo can only be settled as done", input.Step))
	}
}
