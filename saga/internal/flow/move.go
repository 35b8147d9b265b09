package flow

import "fmt"

// Move brings the place of an older version's instance to this graph: it goes on at step. Nodes before it keep their
// marks if they have one of the same name, else count as skipped; marks without a node are dropped. So are the states
// of subs without a node; a sub that has begun must have one. While the instance is undone or refunded, every node must
// still be there that this depends on.
func (g *Graph) Move(in *Instance, step string) error {
	if err := g.decodeFrames(in); err != nil {
		return err
	}
	if err := g.moveMarks(&in.Cursor, step); err != nil {
		return err
	}
	for _, m := range in.Cursor.Marks {
		n := g.byName[m.Node]
		if m.State != Skipped && n.Frame != "" && in.Frames[n.Frame] == nil {
			return fmt.Errorf("move: %s lies in %s, whose state the instance does not have", m.Node, n.Frame)
		}
		if m.State == Entered && n.Kind == Sub && in.Frames[n.Name] == nil {
			return fmt.Errorf("move: %s has begun, and the instance does not have its state", m.Node)
		}
	}
	return nil
}

func (g *Graph) moveMarks(c *Cursor, step string) error {
	target := g.byName[step]
	if target == nil && step != "" {
		return fmt.Errorf("move: %s version %d has no step %q", g.Name, g.Version, step)
	}
	known := map[string]bool{}
	var kept []*Mark
	for _, m := range c.Marks {
		if g.byName[m.Node] != nil {
			known[m.Node] = true
			kept = append(kept, m)
			continue
		}
		switch m.State {
		case OK, Doubt, Out, Undoing:
			if c.Phase != Forward && !c.Phase.Ended() {
				return fmt.Errorf("move: %s version %d has no %s, which is %s while the saga goes back",
					g.Name, g.Version, m.Node, m.State)
			}
		}
	}
	c.Marks = kept
	if target == nil || c.Phase != Forward {
		return nil
	}
	around := map[string]bool{}
	g.enclosing(g.Root.Kids, step, around)
	passed := true
	each(g.Root, func(n *Node) {
		switch {
		case n == g.Root:
		case n == target:
			passed = false
		case passed && !known[n.Name] && around[n.Name]:
			c.Marks = append(c.Marks, &Mark{Node: n.Name, State: Entered})
		case passed && !known[n.Name]:
			c.Marks = append(c.Marks, &Mark{Node: n.Name, State: Skipped})
		}
	})
	return nil
}

// enclosing notes the nodes around the one with the given name.
func (g *Graph) enclosing(nodes []*Node, name string, around map[string]bool) bool {
	for _, n := range nodes {
		if n.Name == name {
			return true
		}
		if g.enclosing(n.Kids, name, around) {
			around[n.Name] = true
			return true
		}
	}
	return false
}
