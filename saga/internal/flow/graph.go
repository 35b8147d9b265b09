package flow

import (
	"context"
	"reflect"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// Kind tells what a [Node] is.
type Kind uint8

// The kinds of nodes.
const (
	Root Kind = iota // a sequence
	Step
	Local
	Wait
	When
	Parallel
	Sub
	Cancel // the branch that runs when a saga is cancelled behind its pivot
)

// String names the kind.
func (k Kind) String() string {
	return [...]string{"sequence", "step", "local", "wait", "when", "parallel", "sub", "cancel"}[k]
}

// A Node is one vertex of a graph. Its functions take the state of its frame, a pointer.
type Node struct {
	Kind    Kind
	Name    string // with the names of the subs around it, joined by "/"
	Frame   string // the sub whose state it sees; "" is the saga's own
	Kids    []*Node
	Pivot   bool
	Forward bool // behind the pivot, or in the cancel branch: never undone. Set by New

	Do       func(state any) any                        // step: the command
	Done     func(state, reply any)                     // step: takes what NewReply made
	NewReply func() any                                 // step
	Rejected func(state any, no *cqrs.Rejection)        // step; may be nil
	Undo     *Undo                                      // step, local; nil means undeclared
	Run      func(ctx context.Context, state any) error // local; may be nil
	If       func(state any) bool                       // when
	On       func(state, event any)                     // wait: takes what NewEvent made
	NewEvent func() any                                 // wait
	Key      func(event any) string                     // wait: the key of the saga that an event is for; may be nil
	In       func(outer any) any                        // sub: the inner state
	Out      func(outer, inner any)                     // sub; may be nil
	NewFrame func() any                                 // sub
	Note     func(state any, reason string)             // cancel; may be nil

	Timeout time.Duration
	Tries   int           // of a step or local, at least 1
	Min     time.Duration // first backoff
	Max     time.Duration // longest backoff
	Then    Exhausted     // what follows a step in doubt

	Sends, Gets string       // names of message types, for the hash and the drawing
	Message     reflect.Type // step: of the command; wait: of the event
	Faults      []string     // what the node's builder found wrong
	Proto       *Graph       // sub: the graph to put in its place; cleared by New
}

// An Undo builds the command that compensates a node.
type Undo struct {
	Build   func(state any) any // nil: there is nothing to undo
	Sends   string
	Message reflect.Type
}

// Exhausted says what follows a step whose outcome stays unknown.
type Exhausted int

// What may follow.
const (
	ByPlace    Exhausted = iota // Compensate before the pivot, Park from the pivot on
	Compensate                  // undo it and all before it
	Park                        // an operator decides
)

// A Graph is a checked definition. It is immutable and safe for concurrent use.
type Graph struct {
	Name    string
	Version int
	Root    *Node
	Cancel  *Node // nil if none is declared
	Hash    string
	Blank   func() any // a new state

	byName    map[string]*Node
	pivot     *Node
	locals    bool
	waits     map[string][]*Node
	protoRoot []*Node
}

// Node finds a node by its name, or returns nil.
func (g *Graph) Node(name string) *Node { return g.byName[name] }

// HasLocals reports whether transitions may write to the host's database.
func (g *Graph) HasLocals() bool { return g.locals }

// Pivot returns the pivot, or nil.
func (g *Graph) Pivot() *Node { return g.pivot }

// Commands returns the types of everything that the graph sends.
func (g *Graph) Commands() []reflect.Type {
	var list []reflect.Type
	g.Each(func(n *Node) {
		if n.Kind == Step {
			list = append(list, n.Message)
		}
		if n.Undo != nil && n.Undo.Build != nil {
			list = append(list, n.Undo.Message)
		}
	})
	return list
}

// Waits returns the names of the event types that the graph waits for, each with a node.
func (g *Graph) Waits() map[string][]*Node { return g.waits }

// Each calls f for every node in the order of the definition, the cancel branch last.
func (g *Graph) Each(f func(*Node)) {
	each(g.Root, f)
	if g.Cancel != nil {
		each(g.Cancel, f)
	}
}

func each(n *Node, f func(*Node)) {
	f(n)
	for _, k := range n.Kids {
		each(k, f)
	}
}

// New copies nodes into a graph, puts subs in their places and returns every fault it finds.
func New(name string, version int, blank func() any, nodes []*Node) (*Graph, []string) {
	g := &Graph{
		Name: name, Version: version, Blank: blank, protoRoot: nodes,
		byName: map[string]*Node{}, waits: map[string][]*Node{},
	}
	var main []*Node
	var c checker
	for _, n := range nodes {
		switch {
		case n != nil && n.Kind == Cancel && g.Cancel != nil:
			c.fault("%s: only one OnCancel", n.Name)
		case n != nil && n.Kind == Cancel:
			g.Cancel = clone(n, "", "")
		default:
			main = append(main, clone(n, "", ""))
		}
	}
	g.Root = &Node{Kind: Root, Kids: main}
	c.check(g)
	g.index(&c)
	g.Hash = hash(g)
	return g, c.faults
}

// clone copies n and what is below it, with names and frames put below the subs around it.
func clone(n *Node, prefix, frame string) *Node {
	if n == nil {
		return &Node{Faults: []string{"a node is nil"}}
	}
	c := *n
	c.Name, c.Frame, c.Proto = prefix+n.Name, frame, nil
	kids := n.Kids
	if n.Proto != nil {
		kids, prefix, frame = n.Proto.protoRoot, c.Name+"/", c.Name
	}
	c.Kids = make([]*Node, len(kids))
	for i, k := range kids {
		c.Kids[i] = clone(k, prefix, frame)
	}
	return &c
}

func (g *Graph) index(c *checker) {
	g.Each(func(n *Node) {
		g.byName[n.Name] = n
		switch {
		case n.Pivot:
			g.pivot = n
		case n.Kind == Local && n.Run != nil:
			g.locals = true
		case n.Kind == Wait:
			if same := g.waits[n.Gets]; same != nil && same[0].Message != n.Message {
				c.fault("%s: waits for another %s than %s does: events need distinct names", n.Name, n.Gets, same[0].Name)
			}
			g.waits[n.Gets] = append(g.waits[n.Gets], n)
		}
	})
	delete(g.byName, "")
}
