package flow

// unwind undoes marks from the last to the first, one at a time. Its decisions are the marks themselves: a When is
// not evaluated again, and what was never begun is not undone.
func (r *run) unwind() {
	for i := len(r.c.Marks) - 1; i >= 0; i-- {
		m := r.c.Marks[i]
		switch m.State {
		case Undoing:
			return
		case OK, Doubt:
			if r.undo(m) {
				return
			}
		}
	}
	if r.c.Abort {
		r.end(Aborted)
		return
	}
	r.end(Compensated)
}

// undo begins to undo m and reports whether that needs an answer.
func (r *run) undo(m *Mark) bool {
	n := r.g.byName[m.Node]
	m.Due = 0
	if n.Undo == nil || n.Undo.Build == nil {
		m.State = Undone
		r.out.Changed = true
		return false
	}
	m.State, m.Try = Undoing, 1
	r.sendUndo(n, m)
	return true
}
