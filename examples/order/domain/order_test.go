package domain_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/surge-go/surge/examples/order/domain"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

func line(sku string, n int, cents domain.Money) domain.Line {
	l, err := domain.NewLine(sku, n, cents)
	if err != nil {
		panic(err)
	}
	return l
}

func placed(t interface{ Fatal(...any) }) *domain.Order {
	o, err := domain.Place("o-1", "ann", "card", []domain.Line{line("hat", 2, 1500), line("cap", 1, 990)}, noon)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestPlaceAddsUpAndRecords(t *testing.T) {
	t.Parallel()
	o := placed(t)
	e, ok := o.Recorded()[0].(domain.OrderPlaced)
	if !ok || e.Total != 3990 || e.ID != "o-1" || e.Card != "card" || len(e.Lines) != 2 {
		t.Fatalf("recorded %+v", o.Recorded())
	}
	if o.Status() != domain.Pending || o.Snapshot().Total != 3990 {
		t.Fatalf("%+v", o.Snapshot())
	}
}

func TestPlaceRefuses(t *testing.T) {
	t.Parallel()
	hat := line("hat", 1, 100)
	many := make([]domain.Line, domain.MaxLines+1)
	for name, lines := range map[string][]domain.Line{
		"nothing":          nil,
		"too many lines":   many,
		"a product twice":  {hat, hat},
		"a free order":     {line("hat", 1, 0)},
		"too much in all":  {line("hat", 1, math.MaxInt64), line("cap", 1, 1)},
		"too much in line": {line("hat", 2, math.MaxInt64)},
	} {
		if _, err := domain.Place("o-1", "ann", "card", lines, noon); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := domain.Place("", "ann", "card", []domain.Line{hat}, noon); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("no ID: %v", err)
	}
}

func TestRule24_CancelIsOnlyAWish(t *testing.T) {
	t.Parallel()
	o := placed(t)
	if err := o.RequestCancel(noon); err != nil || o.Status() != domain.Pending {
		t.Fatalf("%s, %v", o.Status(), err)
	}
	if err := o.Reject("undone", noon); err != nil || o.Status() != domain.Cancelled {
		t.Fatalf("an order whose steps were undone on request: %s, %v", o.Status(), err)
	}
}

func TestRule24_CancelThatCameTooLateChangesNothingByItself(t *testing.T) {
	t.Parallel()
	o := placed(t)
	_ = o.RequestCancel(noon)
	if err := o.Confirm(noon); err != nil || o.Status() != domain.Confirmed {
		t.Fatalf("%s, %v", o.Status(), err)
	}
	if err := o.Cancel(noon); err != nil || o.Status() != domain.Cancelled {
		t.Fatalf("%s, %v", o.Status(), err)
	}
}

func TestRejectedOrderCannotBeCancelled(t *testing.T) {
	t.Parallel()
	o := placed(t)
	if err := o.Reject("sold_out", noon); err != nil || o.Snapshot().Reason != "sold_out" {
		t.Fatalf("%+v, %v", o.Snapshot(), err)
	}
	for _, err := range []error{o.RequestCancel(noon), o.Cancel(noon), o.Confirm(noon)} {
		if !errors.Is(err, domain.ErrWrongState) {
			t.Errorf("got %v", err)
		}
	}
}

// Whatever comes, in any order and number: a final state is left only by a refund, each end is told once,
// and the totals never change.
func TestOrderStateMachine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		o := placed(t)
		before := o.Status()
		move := func(f func() error) func(*rapid.T) {
			return func(t *rapid.T) {
				told := len(o.Recorded())
				err := f()
				if err != nil && (o.Status() != before || len(o.Recorded()) != told) {
					t.Fatalf("refused with %v, but changed to %s", err, o.Status())
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"confirm":        move(func() error { return o.Confirm(noon) }),
			"reject":         move(func() error { return o.Reject("no", noon) }),
			"request cancel": move(func() error { return o.RequestCancel(noon) }),
			"cancel":         move(func() error { return o.Cancel(noon) }),
			"reload":         func(*rapid.T) { told := o.Recorded(); o = reload(o, told) },
			"": func(t *rapid.T) {
				check(t, before, o)
				before = o.Status()
			},
		})
	})
}

// reload restores the order from its snapshot and keeps what it told so far.
func reload(o *domain.Order, told []any) *domain.Order {
	o = domain.Restore(o.Snapshot(), o.Version)
	o.Record(told...)
	return o
}

func check(t *rapid.T, before domain.Status, o *domain.Order) {
	now := o.Status()
	legal := before == now || before == domain.Pending || before == domain.Confirmed && now == domain.Cancelled
	if !legal {
		t.Fatalf("%s became %s", before, now)
	}
	count := map[domain.Status]int{}
	for _, e := range o.Recorded() {
		switch e.(type) {
		case domain.OrderConfirmed:
			count[domain.Confirmed]++
		case domain.OrderRejected:
			count[domain.Rejected]++
		case domain.OrderCancelled:
			count[domain.Cancelled]++
		}
	}
	for s, n := range count {
		if n > 1 {
			t.Fatalf("%s was told %d times", s, n)
		}
	}
	if now != domain.Pending && count[now] != 1 || o.Snapshot().Total != 3990 {
		t.Fatalf("%s, told %v", now, count)
	}
}
