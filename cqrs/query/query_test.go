package query_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/query"
)

type view struct{ ID, Status string }

type getOrder struct {
	query.Returns[view]
	ID string
}

type countOrders struct{ query.Returns[int] }

var errNoOrder = errors.New("no such order")

func reads(behaviors ...cqrs.Behavior) *query.Mux {
	m := query.NewMux(behaviors...)
	query.Handle(m, func(_ context.Context, q getOrder) (view, error) {
		if q.ID == "" {
			return view{Status: "half made"}, errNoOrder
		}
		return view{ID: q.ID, Status: "placed"}, nil
	})
	query.Handle(m, func(context.Context, countOrders) (int, error) { return 3, nil })
	return m
}

func TestAskFindsTheHandlerByType(t *testing.T) {
	t.Parallel()
	m := reads()
	v, err := query.Ask(t.Context(), m, getOrder{ID: "o-1"})
	if err != nil || v != (view{"o-1", "placed"}) {
		t.Fatalf("Ask = %v, %v", v, err)
	}
	n, err := query.Ask(t.Context(), m, countOrders{})
	if err != nil || n != 3 {
		t.Fatalf("Ask = %v, %v", n, err)
	}
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestAskReturnsTheHandlersError(t *testing.T) {
	t.Parallel()
	if _, err := query.Ask(t.Context(), reads(), getOrder{}); !errors.Is(err, errNoOrder) {
		t.Fatalf("err = %v", err)
	}
}

func TestAskWithoutHandler(t *testing.T) {
	t.Parallel()
	_, err := query.Ask(t.Context(), query.NewMux(), getOrder{})
	if !errors.Is(err, cqrs.ErrNoHandler) || !strings.Contains(err.Error(), "getOrder") {
		t.Fatalf("err = %v", err)
	}
}

func TestSecondHandlerIsAFault(t *testing.T) {
	t.Parallel()
	m := reads()
	query.Handle(m, func(context.Context, countOrders) (int, error) { return 4, nil })
	if err := m.Validate(); err == nil || !strings.Contains(err.Error(), "countOrders has two handlers") {
		t.Fatalf("Validate = %v", err)
	}
	if _, err := query.Ask(t.Context(), m, countOrders{}); err == nil {
		t.Fatal("a query with two handlers was answered")
	}
	if _, err := query.Ask(t.Context(), m, getOrder{ID: "o-1"}); err != nil {
		t.Fatalf("another query suffers: %v", err)
	}
}

func TestNilHandlerIsAFault(t *testing.T) {
	t.Parallel()
	m := query.NewMux()
	query.Handle[getOrder](m, nil)
	if err := m.Validate(); err == nil || !strings.Contains(err.Error(), "getOrder is nil") {
		t.Fatalf("Validate = %v", err)
	}
}

func TestBehaviorsWrapOutermostFirst(t *testing.T) {
	t.Parallel()
	var trace []string
	note := func(name string) cqrs.Behavior {
		return func(ctx context.Context, d *cqrs.Delivery, next func(context.Context) error) error {
			trace = append(trace, fmt.Sprintf("%s %v", name, d.Message.(getOrder).ID))
			err := next(ctx)
			trace = append(trace, fmt.Sprintf("%s %v", name, err))
			return err
		}
	}
	v, err := query.Ask(t.Context(), reads(note("out"), note("in")), getOrder{ID: "o-1"})
	if err != nil || v.ID != "o-1" {
		t.Fatalf("Ask = %v, %v", v, err)
	}
	if want := []string{"out o-1", "in o-1", "in <nil>", "out <nil>"}; !slices.Equal(trace, want) {
		t.Fatalf("trace %q, want %q", trace, want)
	}
}

func TestBehaviorMayRefuse(t *testing.T) {
	t.Parallel()
	errDenied := errors.New("denied")
	after := func(ctx context.Context, _ *cqrs.Delivery, next func(context.Context) error) error {
		if err := next(ctx); err != nil {
			return err
		}
		return errDenied
	}
	v, err := query.Ask(t.Context(), reads(after), getOrder{ID: "o-1"})
	if !errors.Is(err, errDenied) || v != (view{}) {
		t.Fatalf("Ask = %v, %v: a refused answer leaked or the error was lost", v, err)
	}
}

func TestBehaviorThatSwallowsTheQuery(t *testing.T) {
	t.Parallel()
	swallow := func(context.Context, *cqrs.Delivery, func(context.Context) error) error { return nil }
	if _, err := query.Ask(t.Context(), reads(swallow), countOrders{}); !errors.Is(err, query.ErrUnanswered) {
		t.Fatalf("err = %v", err)
	}
}

func TestAskConcurrently(t *testing.T) {
	t.Parallel()
	m := reads()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			id := fmt.Sprint("o-", i)
			if v, err := query.Ask(t.Context(), m, getOrder{ID: id}); err != nil || v.ID != id {
				t.Errorf("Ask(%s) = %v, %v", id, v, err)
			}
		})
	}
	wg.Wait()
}

func TestAskAllocates(t *testing.T) {
	m := reads()
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() { _, _ = query.Ask(ctx, m, getOrder{ID: "o-1"}) }); n > 2 {
		t.Errorf("Ask without behaviors allocates %v times", n)
	}
}

// A behavior that is nil is a fault like a handler that is.
func TestANilBehaviorIsAFault(t *testing.T) {
	t.Parallel()
	pass := func(ctx context.Context, _ *cqrs.Delivery, next func(context.Context) error) error { return next(ctx) }
	m := reads(pass, nil)
	_, err := query.Ask(t.Context(), m, countOrders{})
	for _, err := range []error{m.Validate(), err} {
		if err == nil || !strings.Contains(err.Error(), "behavior 2 is nil") {
			t.Errorf("got %v", err)
		}
	}
}

// A behavior may ask twice, at once too, and go on with the first answer that comes: what the other call comes to is
// neither the answer nor a race.
func TestABehaviorMayHedge(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	late := make(chan struct{})
	hedge := func(ctx context.Context, _ *cqrs.Delivery, next func(context.Context) error) error {
		_ = next(ctx)
		failed := make(chan struct{})
		go func() {
			defer close(late)
			_ = next(ctx) // fails
			close(failed)
			_ = next(ctx) // is too late
		}()
		<-failed
		return nil
	}
	m := query.NewMux(hedge)
	query.Handle(m, func(context.Context, getOrder) (view, error) {
		if n := calls.Add(1); n == 2 {
			return view{Status: "half made"}, errNoOrder
		}
		return view{ID: "o-1", Status: "placed"}, nil
	})
	v, err := query.Ask(t.Context(), m, getOrder{ID: "o-1"})
	if err != nil || v != (view{"o-1", "placed"}) {
		t.Errorf("Ask = %v, %v", v, err)
	}
	<-late
}
