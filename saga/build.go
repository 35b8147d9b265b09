package saga

import (
	"cmp"
	"context"
	"reflect"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga/internal/flow"
)

const (
	defaultTimeout = 30 * time.Second
	defaultTries   = 5
	defaultMin     = 100 * time.Millisecond
	defaultMax     = time.Minute
)

func (s Step[S, C, R]) build(z *S) *flow.Node {
	n := &flow.Node{
		Kind: flow.Step, Name: s.Name, Pivot: s.Pivot, Then: flow.Exhausted(s.Exhausted),
		Sends: typeName[C](), Gets: typeName[R](), Timeout: s.Timeout, Message: reflect.TypeFor[C](),
		NewReply: func() any { return new(R) },
	}
	if s.Timeout == 0 {
		n.Timeout = defaultTimeout
	}
	setRetry(n, s.Retry)
	if s.Undo != nil {
		n.Undo = s.Undo.compensates(z)
	}
	if s.Do == nil {
		n.Faults = append(n.Faults, "Do is missing")
	} else {
		n.Do = func(state any) any { return s.Do(state.(*S)) }
	}
	if s.Done != nil {
		n.Done = func(state, reply any) { s.Done(state.(*S), *reply.(*R)) }
	}
	if s.Rejected != nil {
		n.Rejected = func(state any, no *cqrs.Rejection) { s.Rejected(state.(*S), no) }
	}
	return n
}

func (l Local[S]) build(z *S) *flow.Node {
	n := &flow.Node{Kind: flow.Local, Name: l.Name, Timeout: defaultTimeout}
	setRetry(n, l.Retry)
	if l.Undo != nil {
		n.Undo = l.Undo.compensates(z)
	}
	if l.Do != nil {
		n.Run = func(ctx context.Context, state any) error { return l.Do(ctx, state.(*S)) }
	}
	return n
}

func (w Wait[S, E]) build(*S) *flow.Node {
	n := &flow.Node{
		Kind: flow.Wait, Name: w.Name, Timeout: w.Timeout, Gets: typeName[E](), Message: reflect.TypeFor[E](),
		NewEvent: func() any { return new(E) },
	}
	if w.On != nil {
		n.On = func(state, event any) { w.On(state.(*S), *event.(*E)) }
	}
	if w.Key != nil {
		n.Key = func(event any) string { return w.Key(valueOf[E](event)) }
	}
	return n
}

func (s Sub[S, T]) build(*S) *flow.Node {
	n := &flow.Node{Kind: flow.Sub, Name: s.Name, NewFrame: func() any { return new(T) }}
	if s.Saga == nil {
		n.Faults = append(n.Faults, "Saga is missing")
	} else {
		n.Proto, n.Sends = s.Saga.graph, s.Saga.graph.Name
	}
	if s.In == nil {
		n.Faults = append(n.Faults, "In is missing")
	} else {
		n.In = func(outer any) any { t := s.In(outer.(*S)); return &t }
	}
	if s.Out != nil {
		n.Out = func(outer, inner any) { s.Out(outer.(*S), *inner.(*T)) }
	}
	return n
}

func (o OnCancel[S]) build(z *S) *flow.Node {
	n := &flow.Node{Kind: flow.Cancel, Name: o.Name, Kids: buildAll(z, o.Then)}
	if o.Note != nil {
		n.Note = func(state any, reason string) { o.Note(state.(*S), reason) }
	}
	return n
}

func setRetry(n *flow.Node, r cqrs.Retry) {
	n.Tries, n.Min, n.Max = r.Attempts, r.Min, r.Max
	if n.Tries == 0 {
		n.Tries = defaultTries
	}
	if n.Min == 0 {
		n.Min = min(defaultMin, cmp.Or(max(r.Max, 0), defaultMin))
	}
	if n.Max == 0 {
		n.Max = max(defaultMax, n.Min)
	}
}

// valueOf takes a T or a *T.
func valueOf[T any](v any) T {
	if t, ok := v.(T); ok {
		return t
	}
	return *v.(*T)
}
