package flow

import "time"

// send sends n's command under the mark's incarnation.
func (r *run) send(n *Node, m *Mark) {
	r.out.Commands = append(r.out.Commands, Command{
		Token:    Token{Saga: r.in.ID, Step: n.Name, Inc: m.Inc, Aim: ToDo},
		Message:  n.Do(r.in.frame(n.Frame)),
		Deadline: r.deadline(n, m.Try),
	})
	m.Due = r.now + n.patience(m.Try)
	r.note(Entry{What: "send", Step: n.Name, Inc: m.Inc, Try: m.Try})
}

// sendUndo sends n's compensation. It names the incarnation that it undoes.
func (r *run) sendUndo(n *Node, m *Mark) {
	aim := ToUndo
	if n.Kind == Local {
		aim = ToEnd
	}
	r.out.Commands = append(r.out.Commands, Command{
		Token:   Token{Saga: r.in.ID, Step: n.Name, Inc: max(m.Inc, 1), Aim: aim},
		Message: n.Undo.Build(r.in.frame(n.Frame)), // without a deadline: an undo is never given up silently
	})
	m.Due = r.now + n.patience(m.Try)
	r.note(Entry{What: "undo", Step: n.Name, Inc: m.Inc, Try: m.Try})
}

// forever is a hundred years, in milliseconds.
const forever = 100 * 365 * 24 * int64(time.Hour/time.Millisecond)

// deadline is when the saga gives up on this incarnation, if nothing comes back at all; zero if that is no matter of a
// lifetime.
func (r *run) deadline(n *Node, try int) time.Time {
	left := n.patience(try)
	for t := try + 1; t <= n.Tries && left < forever; t++ {
		wait := n.patience(t)
		if rest := int64(n.Tries - t + 1); n.backoff(t-1) == n.Max.Milliseconds() { // from now on all waits are equal
			left += wait * min(rest, forever/max(wait, 1)+1)
			break
		}
		left += wait
	}
	if left >= forever {
		return time.Time{}
	}
	return time.UnixMilli(r.now + left).UTC()
}

// patience is how long a try is waited for, in milliseconds.
func (n *Node) patience(try int) int64 {
	return n.Timeout.Milliseconds() + n.backoff(try-1)
}

// backoff is the wait after the given number of failures, in milliseconds: Min, doubled each time, up to Max.
func (n *Node) backoff(failures int) int64 {
	if failures <= 0 {
		return 0
	}
	d := n.Min
	for i := 1; i < failures && d < n.Max; i++ {
		d = min(d, n.Max-d) + d
	}
	return min(d, n.Max).Milliseconds()
}
