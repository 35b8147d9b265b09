package query

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/surge-go/surge/cqrs"
)

// ErrUnanswered is returned by [Ask] when a behavior neither called the handler nor failed.
var ErrUnanswered = errors.New("query: a behavior kept the query from its handler")

// Returns is embedded in a query to name its answer:
//
//	type GetOrder struct {
//		query.Returns[OrderView]
//		ID string
//	}
type Returns[R any] struct{}

// AnswerType exists for type inference.
func (Returns[R]) AnswerType() (r R) { return r }

// Request is a query answered by an R. Embedding [Returns] satisfies it; a generated type may
// write the method by hand.
type Request[R any] interface{ AnswerType() R }

// A Mux finds the handler of a query. It is safe for concurrent use; make it with [NewMux].
type Mux struct {
	behaviors []cqrs.Behavior

	fault error

	mu       sync.RWMutex
	handlers map[reflect.Type]any
	faults   map[reflect.Type]error
}

// NewMux makes a Mux whose handlers are wrapped by behaviors, outermost first.
func NewMux(behaviors ...cqrs.Behavior) *Mux {
	m := &Mux{
		behaviors: append([]cqrs.Behavior(nil), behaviors...),
		handlers:  map[reflect.Type]any{},
		faults:    map[reflect.Type]error{},
	}
	for i, b := range behaviors {
		if b == nil {
			m.fault = errors.Join(m.fault, fmt.Errorf("query: behavior %d is nil", i+1))
		}
	}
	return m
}

// Validate joins the faults of all registrations: nil behaviors, nil handlers and second handlers of a query.
func (m *Mux) Validate() error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	errs := []error{m.fault}
	for _, err := range m.faults {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Handle registers the one handler of a query. A second one is a fault, kept for [Mux.Validate] and
// for whoever asks that query.
func Handle[Q Request[R], R any](m *Mux, h func(context.Context, Q) (R, error)) {
	t := reflect.TypeFor[Q]()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case h == nil:
		m.faults[t] = fmt.Errorf("query: the handler of %v is nil", t)
	case m.handlers[t] != nil:
		m.faults[t] = fmt.Errorf("query: %v has two handlers", t)
	default:
		m.handlers[t] = func(ctx context.Context, q Request[R]) (R, error) { return h(ctx, q.(Q)) }
	}
}

// Ask returns the handler's answer. Errors of the handler and of behaviors come back as they are;
// a query that nobody handles gives [cqrs.ErrNoHandler].
func Ask[R any](ctx context.Context, m *Mux, q Request[R]) (R, error) {
	var none R
	h, err := find[R](m, q)
	if err != nil {
		return none, err
	}
	if len(m.behaviors) == 0 {
		return h(ctx, q)
	}
	var got answers[R]
	run := func(ctx context.Context) error {
		a, err := h(ctx, q)
		got.note(a, err)
		return err
	}
	d := &cqrs.Delivery{Message: q}
	d.Envelope.Type = fmt.Sprintf("%T", q)
	if err := m.wrap(d, run)(ctx); err != nil {
		return none, err
	}
	answer, ok := got.best()
	if !ok {
		return none, fmt.Errorf("%w: %T", ErrUnanswered, q)
	}
	return answer, nil
}

// answers keeps the last answer of a handler that behaviors may call more than once, at the same time too, and prefers
// one that came without an error.
type answers[R any] struct {
	mu         sync.Mutex
	last       R
	some, good bool
}

func (a *answers[R]) note(answer R, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil || !a.good {
		a.last, a.some, a.good = answer, true, err == nil
	}
}

func (a *answers[R]) best() (answer R, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last, a.some
}

func (m *Mux) wrap(d *cqrs.Delivery, run func(context.Context) error) func(context.Context) error {
	for i := len(m.behaviors) - 1; i >= 0; i-- {
		b, next := m.behaviors[i], run
		run = func(ctx context.Context) error { return b(ctx, d, next) }
	}
	return run
}

func find[R any](m *Mux, q Request[R]) (func(context.Context, Request[R]) (R, error), error) {
	t := reflect.TypeOf(q)
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := errors.Join(m.fault, m.faults[t]); err != nil {
		return nil, err
	}
	h, ok := m.handlers[t].(func(context.Context, Request[R]) (R, error))
	if !ok {
		return nil, fmt.Errorf("query %T: %w", q, cqrs.ErrNoHandler)
	}
	return h, nil
}
