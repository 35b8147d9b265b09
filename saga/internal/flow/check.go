package flow

import "fmt"

// A checker collects everything that is wrong with a graph, so that a definition is repaired in one go.
type checker struct {
	faults []string
	names  map[string]bool
	pivots int
	behind bool // the walk has passed the pivot
}

func (c *checker) fault(format string, args ...any) {
	c.faults = append(c.faults, fmt.Sprintf(format, args...))
}

func (c *checker) check(g *Graph) {
	c.names = map[string]bool{}
	switch {
	case g.Name == "":
		c.fault("the definition has no name")
	case len(g.Name) > 128:
		c.fault("the name has %d bytes, at most 128", len(g.Name))
	}
	if g.Version < 1 {
		c.fault("version is %d, must be at least 1", g.Version)
	}
	if len(g.Root.Kids) == 0 {
		c.fault("the definition has no nodes")
	}
	for _, k := range g.Root.Kids {
		c.node(k, place{})
	}
	if g.Cancel == nil {
		return
	}
	if len(g.Cancel.Kids) > 0 && c.pivots == 0 {
		c.fault("%s: nodes of OnCancel run behind the pivot, and there is none", g.Cancel.Name)
	}
	c.behind = true
	c.node(g.Cancel, place{top: true})
}

// A place is what surrounds a node.
type place struct{ parallel, when, cancel, top bool }

func (c *checker) node(n *Node, at place) {
	for _, f := range n.Faults {
		c.fault("%s: %s", label(n), f)
	}
	c.name(n)
	n.Forward = c.behind
	switch n.Kind {
	case Step:
		c.step(n, at)
	case Local:
		c.undo(n)
		c.times(n)
	case Wait:
		c.times(n)
	case When:
		at.when = true
	case Parallel:
		at.parallel = true
	case Cancel:
		if !at.top {
			c.fault("%s: OnCancel stands at the top of a definition only", label(n))
		}
		at = place{cancel: true}
	}
	if (n.Kind == When || n.Kind == Parallel) && len(n.Kids) == 0 {
		c.fault("%s: a %s without nodes", label(n), n.Kind)
	}
	for _, k := range n.Kids {
		c.node(k, at)
	}
}

func (c *checker) name(n *Node) {
	switch {
	case n.Name == "" || n.Name[len(n.Name)-1] == '/':
		c.fault("a %s has no name", n.Kind)
	case len(n.Name) > 120:
		c.fault("%s: the name has %d bytes, at most 120", n.Name, len(n.Name))
	case c.names[n.Name]:
		c.fault("%s: the name is used twice", n.Name)
	}
	c.names[n.Name] = true
}

func (c *checker) step(n *Node, at place) {
	c.times(n)
	if n.Then == Compensate && (n.Pivot || n.Forward) {
		c.fault("%s: Exhausted is Compensate: what is in doubt from the pivot on is never undone", label(n))
	}
	if !n.Pivot {
		c.undo(n)
		return
	}
	c.pivots++
	switch {
	case n.Undo != nil:
		c.fault("%s: a pivot has no Undo: it is settled, never undone", label(n))
	case at.parallel:
		c.fault("%s: no pivot inside Parallel", label(n))
	case at.when:
		c.fault("%s: no pivot inside When: what follows would need an undo, or must not have one", label(n))
	case at.cancel:
		c.fault("%s: no pivot inside OnCancel", label(n))
	case c.pivots > 1:
		c.fault("%s: only one pivot", label(n))
	}
	n.Forward = false
	c.behind = true
}

func (c *checker) undo(n *Node) {
	switch {
	case n.Forward && n.Undo != nil:
		c.fault("%s: an Undo behind the pivot would never run", label(n))
	case !n.Forward && n.Undo == nil && n.Kind == Step:
		c.fault("%s: a step before the pivot needs an Undo (saga.Nothing if there is nothing to undo)", label(n))
	}
}

func (c *checker) times(n *Node) {
	if n.Timeout < 0 {
		c.fault("%s: Timeout is %s, must not be negative", label(n), n.Timeout)
	}
	if n.Min < 0 || n.Max < n.Min {
		c.fault("%s: Retry.Min is %s and Retry.Max %s: not a range", label(n), n.Min, n.Max)
	}
	if n.Tries < 0 {
		c.fault("%s: Retry.Attempts is %d, must not be negative", label(n), n.Tries)
	}
}

func label(n *Node) string {
	if n.Name == "" {
		return "a " + n.Kind.String()
	}
	return n.Name
}
