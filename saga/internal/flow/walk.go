package flow

import "github.com/surge-go/surge/cqrs"

// walkAll walks nodes in order and reports whether all are done. It stops at the first that is not.
func (r *run) walkAll(nodes []*Node) bool {
	for _, n := range nodes {
		if !r.walk(n) {
			return false
		}
	}
	return true
}

// walk starts what can start at n and reports whether n is done. It starts nothing once the phase has changed.
func (r *run) walk(n *Node) bool {
	phase := r.c.Phase
	m := r.c.Mark(n.Name)
	if m == nil {
		if m = r.begin(n); r.err != nil || r.c.Phase != phase {
			return false
		}
	}
	switch {
	case m.State == Ready:
		r.local(n, m)
		return m.State == OK && r.err == nil
	case m.State != Entered:
		return m.State == OK || m.State == Skipped || m.State == NotTaken
	case n.Kind == Parallel:
		return r.walkParallel(n)
	case n.Kind == Sub:
		return r.walkSub(n, m)
	}
	return r.walkAll(n.Kids)
}

func (r *run) walkParallel(n *Node) bool {
	phase, done := r.c.Phase, true
	for _, k := range n.Kids {
		if !r.walk(k) {
			done = false
		}
		if r.err != nil || r.c.Phase != phase {
			return false
		}
	}
	return done
}

func (r *run) walkSub(n *Node, m *Mark) bool {
	if !r.walkAll(n.Kids) {
		return false
	}
	if n.Out != nil {
		n.Out(r.in.frame(n.Frame), r.in.Frames[n.Name])
	}
	m.State = OK
	r.note(Entry{What: "left", Step: n.Name})
	return true
}

// begin marks n as reached.
func (r *run) begin(n *Node) *Mark {
	m := &Mark{Node: n.Name, State: Entered}
	r.c.Marks = append(r.c.Marks, m)
	r.out.Changed = true
	switch n.Kind {
	case Step:
		m.State, m.Inc, m.Try = Out, 1, 1
		r.send(n, m)
	case Local:
		m.State, m.Try = Ready, 1
		r.local(n, m)
	case Wait:
		m.State = Waiting
		if n.Timeout > 0 {
			m.Due = r.now + n.Timeout.Milliseconds()
		}
		r.note(Entry{What: "wait", Step: n.Name})
		r.unstash(n, m)
	case When:
		if !n.If(r.in.frame(n.Frame)) {
			m.State = NotTaken
		}
		r.note(Entry{What: "when", Step: n.Name, Note: string(m.State)})
	case Sub:
		r.in.setFrame(n.Name, n.In(r.in.frame(n.Frame)))
	}
	return m
}

// local runs a local in the caller's transaction. A rejection is a definite failure; every other error is tried
// again later. Either way what it wrote has to be undone first, which the caller of Apply does.
func (r *run) local(n *Node, m *Mark) {
	if n.Run == nil {
		m.State = OK
		return
	}
	state := r.in.frame(n.Frame)
	err, failed := r.env.Failed[n.Name]
	if !failed {
		if err = r.env.Local(n, state); err != nil {
			r.fail(&LocalError{Node: n.Name, Err: err})
			return
		}
		m.State, m.Due = OK, 0
		r.note(Entry{What: "local", Step: n.Name})
		return
	}
	if no := cqrs.AsRejection(err); no != nil {
		r.refuse(n, m, no.Error())
		return
	}
	r.note(Entry{What: "failed", Step: n.Name, Try: m.Try, Note: err.Error()})
	if m.Try >= n.Tries {
		m.State = Refused
		r.stick(m, n.Name+": "+err.Error())
		return
	}
	m.State, m.Due = Paused, r.now+n.backoff(m.Try)
	m.Try++
}

// refuse notes that n failed for certain.
func (r *run) refuse(n *Node, m *Mark, why string) {
	m.State, m.Due = Refused, 0
	why = n.Name + ": " + why
	switch {
	case n.Forward:
		r.stick(m, why)
	case r.c.Phase == Forward:
		r.phase(Settling, why)
	}
}

// stick parks the saga at m.
func (r *run) stick(m *Mark, why string) {
	m.Stuck, m.Due = true, 0
	r.c.Reason = why
	r.note(Entry{What: "stuck", Step: m.Node, Inc: m.Inc, Note: why})
}
