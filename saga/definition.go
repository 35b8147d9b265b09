package saga

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga/internal/flow"
)

// ErrDefinition wraps every fault that [Define] finds.
var ErrDefinition = errors.New("saga: faulty definition")

// A Node is a part of a definition over the state S: [Step], [Local], [Wait], [Sub] and [OnCancel] are literals,
// [Parallel] and [When] join nodes.
type Node[S any] interface{ build(*S) *flow.Node }

// Step sends the command C to the service that owns it and takes its reply R. Do, Done and Rejected are pure: they
// see the state, and the engine does the rest. Do builds the same command as long as no reply has come, because it
// is called again for every try.
//
//	saga.Step[Fulfilment, ReserveStock, StockReserved]{
//		Name: "reserve-stock",
//		Do:   (*Fulfilment).reserve,
//		Done: (*Fulfilment).reserved,
//		Undo: saga.Command((*Fulfilment).release),
//	}
type Step[S any, C cqrs.Request[R], R any] struct {
	Name      string                    // unique in the definition, at most 120 bytes; required
	Do        func(*S) C                // builds the command; required
	Done      func(*S, R)               // takes the reply; nil ignores it
	Rejected  func(*S, *cqrs.Rejection) // takes a business refusal, before anything is undone; may be nil
	Undo      Compensation[S]           // required before the pivot, forbidden from it on
	Pivot     bool                      // once it is done the saga only goes forward
	Timeout   time.Duration             // per try; 0 means 30 s
	Retry     cqrs.Retry                // of the command, under the same token; of the undo likewise
	Exhausted Exhausted                 // in doubt after the last try: what then
}

// Local changes the state, or the host's own database through uow.DB(ctx), in the engine's transaction. Do may run
// more than once; a [cqrs.Rejection] is a definite failure, every other error is tried again after a backoff and
// parks the saga when Retry is exhausted. A Do that uses up the time of its transaction fails whatever it runs for, a
// message or a timer, and counts for none of that. Do may be nil: a Local with only an Undo says what undoing the whole
// saga ends with.
type Local[S any] struct {
	Name  string                          // unique in the definition; required
	Do    func(context.Context, *S) error // may be nil
	Undo  Compensation[S]                 // optional before the pivot, forbidden behind it
	Retry cqrs.Retry                      // of Do, and of the command that Undo sends
}

// Wait waits for an event from outside. One that came before the saga reached the Wait, or even before the saga was
// started, is kept for it. Of several Waits for E each Key is asked, and each saga that one names gets the event, once,
// for whichever of them it stands at.
type Wait[S, E any] struct {
	Name    string         // unique in the definition; required
	Key     func(E) string // the saga's key, "": nobody's; required to hear events from a topic. nil: only [Saga.Signal]
	On      func(*S, E)    // takes the event; nil ignores it
	Timeout time.Duration  // 0 waits for ever; running out is a definite failure, behind the pivot it parks till E comes
}

// Sub runs another saga as one step of this one: in the same instance, with a state of its own. A cancel belongs to
// the whole, so the inner definition has no [OnCancel].
type Sub[S, T any] struct {
	Name string         // unique in the definition; required. Inner nodes are called Name/inner
	Saga *Definition[T] // required
	In   func(*S) T     // the inner saga's state; required
	Out  func(*S, T)    // takes the inner state when it is done; may be nil
}

// OnCancel says what a request to cancel means. Before the pivot's command is written it means to compensate. Once
// it is written the pivot settles first; when it was done, the steps of Then run instead of the rest of the saga, or
// after the whole of it, and the saga ends [Cancelled]. With an empty Then a cancel behind the pivot is ignored.
type OnCancel[S any] struct {
	Name string           // unique in the definition; required
	Note func(*S, string) // takes the reason when the request is accepted; may be nil
	Then []Node[S]        // forward only: no undo, no pivot
}

// Parallel runs nodes side by side. After a failure nothing more is started, and what is in flight settles before
// anything is undone. A pivot may not stand in it.
func Parallel[S any](name string, n ...Node[S]) Node[S] {
	return joined[S]{flow.Node{Kind: flow.Parallel, Name: name}, n}
}

// When runs nodes one after the other if the state says so. p is pure and called once; its answer is remembered.
func When[S any](name string, p func(*S) bool, n ...Node[S]) Node[S] {
	node := flow.Node{Kind: flow.When, Name: name}
	if p == nil {
		node.Faults = []string{"the predicate is missing"}
	} else {
		node.If = func(s any) bool { return p(s.(*S)) }
	}
	return joined[S]{node, n}
}

type joined[S any] struct {
	node flow.Node
	kids []Node[S]
}

func (j joined[S]) build(s *S) *flow.Node {
	n := j.node
	n.Kids = buildAll(s, j.kids)
	return &n
}

func buildAll[S any](s *S, nodes []Node[S]) []*flow.Node {
	out := make([]*flow.Node, len(nodes))
	for i, n := range nodes {
		if n != nil {
			out[i] = n.build(s)
		}
	}
	return out
}

// A Compensation undoes a node: [Command] or [Nothing].
type Compensation[S any] interface{ compensates(*S) *flow.Undo }

type undo[S any] flow.Undo

func (u undo[S]) compensates(*S) *flow.Undo { f := flow.Undo(u); return &f }

// Command is a compensation that sends the command f builds to the service that owns it. f is pure.
func Command[S, C any](f func(*S) C) Compensation[S] {
	return undo[S]{
		Sends: typeName[C](), Message: reflect.TypeFor[C](), Build: func(s any) any { return f(s.(*S)) },
	}
}

// Nothing says, for a step that only looks, that there is nothing to undo.
func Nothing[S any]() Compensation[S] { return undo[S]{} }

// Exhausted says what follows a step whose outcome stays unknown when its tries are used up.
type Exhausted int

const (
	// Default is Compensate before the pivot, and Park from the pivot on.
	Default = Exhausted(flow.ByPlace)
	// Compensate undoes the step, whatever became of it, and all before it. Not from the pivot on.
	Compensate = Exhausted(flow.Compensate)
	// Park leaves the decision to an operator.
	Park = Exhausted(flow.Park)
)

// A Definition is a checked graph. It is immutable and safe for concurrent use.
type Definition[S any] struct{ graph *flow.Graph }

// Define checks the graph and returns every fault at once, wrapped in [ErrDefinition]: missing and doubled names, an
// undo that is missing before the pivot or stands behind it, a pivot inside [Parallel] or [When].
// The name has at most 128 bytes. The version is at least 1; running instances are pinned to it, so a change of the
// graph needs a new one.
func Define[S any](name string, version int, n ...Node[S]) (*Definition[S], error) {
	var s *S
	g, faults := flow.New(name, version, func() any { return new(S) }, buildAll(s, n))
	if len(faults) == 0 {
		return &Definition[S]{graph: g}, nil
	}
	errs := make([]error, len(faults))
	for i, f := range faults {
		errs[i] = fmt.Errorf("%w: %s: %s", ErrDefinition, name, f)
	}
	return nil, errors.Join(errs...)
}

// MustDefine is [Define] for package variables; it panics on a fault.
func MustDefine[S any](name string, version int, n ...Node[S]) *Definition[S] {
	d, err := Define(name, version, n...)
	if err != nil {
		panic(err)
	}
	return d
}

// Name returns the saga's type.
func (d *Definition[S]) Name() string { return d.graph.Name }

// Version returns the definition's version.
func (d *Definition[S]) Version() int { return d.graph.Version }

// Hash identifies the graph: what instances at rest depend on, so neither timeouts nor retries.
func (d *Definition[S]) Hash() string { return d.graph.Hash }

// Mermaid draws the definition as a flowchart.
func (d *Definition[S]) Mermaid() string { return d.graph.Mermaid(nil) }

// Graph is for this module's own packages; its type is not part of the API.
func (d *Definition[S]) Graph() *flow.Graph { return d.graph }

func typeName[T any]() string { return nameOf(reflect.TypeFor[T]()) }

// nameOf leaves the package out, so that moving a contract package does not change hashes. Nothing has no name.
func nameOf(t reflect.Type) string {
	if t = elem(t); t == nil {
		return ""
	}
	return t.Name()
}

// elem is what t points to, if it does.
func elem(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}
