package flow

import (
	"fmt"
	"strings"
)

// Mermaid draws the graph as a flowchart: commands as boxes, decisions as diamonds, events as flags, compensations
// as dotted edges, the pivot in bold. With a cursor it colours the nodes by what became of them.
func (g *Graph) Mermaid(c *Cursor) string {
	d := &drawing{ids: map[string]string{}, c: c}
	d.line("flowchart TD")
	d.line("  begin([%s])", quote(fmt.Sprintf("%s v%d", g.Name, g.Version)))
	last := d.nodes([]string{"begin"}, g.Root.Kids)
	d.line("  finish([completed])")
	d.join(last, "finish", "")
	if g.Cancel != nil && len(g.Cancel.Kids) > 0 {
		d.line("  cancel{{%s}}", quote("cancelled behind the pivot: "+g.Cancel.Name))
		last = d.nodes([]string{"cancel"}, g.Cancel.Kids)
		d.line("  cancelled([cancelled])")
		d.join(last, "cancelled", "")
	}
	d.line("  classDef pivot stroke-width:4px")
	if c != nil {
		d.line("  classDef done fill:#9ae6b4")
		d.line("  classDef busy fill:#faf089")
		d.line("  classDef failed fill:#feb2b2")
	}
	return d.b.String()
}

type drawing struct {
	b   strings.Builder
	ids map[string]string
	c   *Cursor
}

func (d *drawing) line(format string, args ...any) { fmt.Fprintf(&d.b, format+"\n", args...) }

func (d *drawing) id(n *Node) string {
	id, ok := d.ids[n.Name]
	if !ok {
		id = fmt.Sprintf("n%d", len(d.ids)+1)
		d.ids[n.Name] = id
	}
	return id
}

func (d *drawing) join(from []string, to, text string) {
	for _, f := range from {
		if text != "" {
			d.line("  %s -->|%s| %s", f, text, to)
			continue
		}
		d.line("  %s --> %s", f, to)
	}
}

// nodes draws a sequence that follows from, and returns what its successor follows.
func (d *drawing) nodes(from []string, nodes []*Node) []string {
	for _, n := range nodes {
		from = d.node(from, n)
	}
	return from
}

func (d *drawing) node(from []string, n *Node) []string {
	id := d.id(n)
	switch n.Kind {
	case Step:
		d.line("  %s[%s]%s", id, quote(n.Name+"\n"+n.Sends), d.class(n))
	case Local:
		d.line("  %s(%s)%s", id, quote(n.Name), d.class(n))
	case Wait:
		d.line("  %s>%s]%s", id, quote(n.Name+"\n"+n.Gets), d.class(n))
	case When:
		d.line("  %s{%s}%s", id, quote(n.Name+"?"), d.class(n))
	case Parallel:
		d.line("  %s[/%s/]%s", id, quote(n.Name), d.class(n))
	case Sub:
		d.line("  %s[[%s]]%s", id, quote(n.Name), d.class(n))
	}
	d.join(from, id, "")
	if n.Undo != nil && n.Undo.Build != nil {
		d.line("  %s -. undo .-> %su[%s]", id, id, quote(n.Undo.Sends))
	}
	switch n.Kind {
	case When:
		return append(d.nodes([]string{id}, n.Kids), id)
	case Parallel:
		var ends []string
		for _, k := range n.Kids {
			ends = append(ends, d.node([]string{id}, k)...)
		}
		return ends
	case Sub:
		return d.nodes([]string{id}, n.Kids)
	}
	return []string{id}
}

func (d *drawing) class(n *Node) string {
	class := ""
	if n.Pivot {
		class = ":::pivot"
	}
	if d.c == nil {
		return class
	}
	m := d.c.Mark(n.Name)
	switch {
	case m == nil:
		return class
	case m.Stuck, m.State == Refused, m.State == Doubt:
		return ":::failed"
	case m.State == OK, m.State == Undone, m.State == Entered:
		return ":::done"
	case m.State == Skipped, m.State == NotTaken:
		return class
	}
	return ":::busy"
}

func quote(s string) string {
	s = strings.ReplaceAll(s, `"`, "#quot;")
	return `"` + strings.ReplaceAll(s, "\n", "<br>") + `"`
}
