package domain_test

import (
	"errors"
	"testing"

	"github.com/surge-go/surge/examples/inventory/domain"
	"pgregory.net/rapid"
)

var lines = []domain.Line{{SKU: "hat", Quantity: 2}, {SKU: "cap", Quantity: 1}}

func reserved(t interface{ Fatal(...any) }) *domain.Reservation {
	r, err := domain.Reserve("o-1", lines)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReserveRefuses(t *testing.T) {
	t.Parallel()
	for name, l := range map[string][]domain.Line{
		"nothing":         nil,
		"no units":        {{SKU: "hat"}},
		"negative units":  {{SKU: "hat", Quantity: -1}},
		"no product":      {{Quantity: 1}},
		"a product twice": {{SKU: "hat", Quantity: 1}, {SKU: "hat", Quantity: 1}},
	} {
		if _, err := domain.Reserve("o-1", l); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := domain.Reserve("", lines); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("no order: %v", err)
	}
}

func TestShortNamesTheProduct(t *testing.T) {
	t.Parallel()
	err := domain.Short(lines, map[domain.SKU]int{"hat": 2})
	var soldOut *domain.SoldOutError
	if !errors.As(err, &soldOut) || soldOut.SKU != "cap" || soldOut.Error() != "cap: only 0 left" {
		t.Fatalf("got %v", err)
	}
	if err := domain.Short(lines, map[domain.SKU]int{"hat": 2, "cap": 1}); err != nil {
		t.Fatalf("enough is there: %v", err)
	}
}

func TestReleasedIsNotCommitted(t *testing.T) {
	t.Parallel()
	r := reserved(t)
	r.Release()
	if err := r.Commit(); !errors.Is(err, domain.ErrWrongState) {
		t.Fatalf("got %v", err)
	}
}

// However often a saga repeats itself: units go back once at most, and only after they were taken.
func TestReservationStateMachine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := reserved(t)
		back := 0
		t.Repeat(map[string]func(*rapid.T){
			"commit":  func(*rapid.T) { _ = r.Commit() },
			"release": func(*rapid.T) { back += len(r.Release()) },
			"reload":  func(*rapid.T) { r = domain.Restore(r.OrderID(), r.Lines(), r.Status(), r.Version) },
			"": func(t *rapid.T) {
				if (back != 0) != (r.Status() == domain.Released) || back > len(lines) {
					t.Fatalf("%s, %d lines went back", r.Status(), back)
				}
			},
		})
	})
}

func TestEventsAreToldOnce(t *testing.T) {
	t.Parallel()
	r := reserved(t)
	for range 2 {
		if err := r.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	r.Release()
	r.Release()
	if got := r.Recorded(); len(got) != 3 || got[1] != (domain.StockCommitted{OrderID: "o-1"}) ||
		got[2] != (domain.StockReleased{OrderID: "o-1"}) {
		t.Fatalf("recorded %+v", got)
	}
}
