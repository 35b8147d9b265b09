package resilience_test

import (
	"errors"
	"testing"

	"github.com/surge-go/surge/resilience"
)

func TestRegistry(t *testing.T) {
	t.Parallel()
	var r resilience.Registry
	b, a := resilience.Standard("b"), resilience.Standard("a")
	if err := r.Add(b, a); err != nil {
		t.Fatal(err)
	}
	if err := r.Add(resilience.Standard("c"), resilience.Standard("a")); err == nil {
		t.Error("took a name twice")
	}
	got, err := r.Get("a")
	if got != a || err != nil {
		t.Fatalf("got %v, %v", got, err)
	}
	got.ForceOpen()
	list := r.List()
	if len(list) != 2 || list[0].Name != "a" || list[0].State != resilience.Open || !list[0].Forced ||
		list[1].State != resilience.Closed || list[1].Forced || len(list[1].Policies) != 4 {
		t.Errorf("list %+v", list)
	}
	got.Reset()
	if s := r.List()[0]; s.State != resilience.Closed || s.Forced {
		t.Errorf("after reset: %+v", s)
	}
	got.ForceClosed()
	if s := r.List()[0]; s.State != resilience.Closed || !s.Forced {
		t.Errorf("forced closed: %+v", s)
	}
	r.Remove("a")
	if _, err := r.Get("a"); !errors.Is(err, resilience.ErrUnknownPipeline) {
		t.Errorf("got %v", err)
	}
}

func TestRegistryAddsAllOrNothing(t *testing.T) {
	t.Parallel()
	var r resilience.Registry
	if err := r.Add(resilience.Standard("x"), resilience.Standard("x")); err == nil || len(r.List()) != 0 {
		t.Errorf("got %v and %d pipelines", err, len(r.List()))
	}
}
