package domain_test

import (
	"errors"
	"testing"

	"github.com/surge-go/surge/examples/payment/domain"
	"pgregory.net/rapid"
)

func begun(t interface{ Fatal(...any) }) *domain.Payment {
	p, err := domain.Begin("o-1", "card", 3990)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestBeginRefuses(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"no id":     second(domain.Begin("", "card", 1)),
		"no card":   second(domain.Begin("o-1", "", 1)),
		"no amount": second(domain.Begin("o-1", "card", 0)),
		"negative":  second(domain.Begin("o-1", "card", -1)),
	} {
		if !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestRule28_OneIntentAtATime(t *testing.T) {
	t.Parallel()
	p := begun(t)
	if err := errors.Join(p.Authorize("a-1"), p.BeginCapture()); err != nil {
		t.Fatal(err)
	}
	if err := p.BeginVoid(); !errors.Is(err, domain.ErrBusy) {
		t.Errorf("void while capturing: %v", err)
	}
	if err := p.BeginCapture(); err != nil {
		t.Errorf("the same intent again: %v", err)
	}
	if err := p.Capture("c-1"); err != nil {
		t.Fatal(err)
	}
	if err := p.BeginCapture(); err != nil || p.Status() != domain.Captured {
		t.Errorf("the same intent again, settled: %v, %s", err, p.Status())
	}
	if err := p.BeginRefund(); err != nil {
		t.Fatal(err)
	}
	if err := p.BeginCapture(); !errors.Is(err, domain.ErrBusy) {
		t.Errorf("capture while refunding: %v", err)
	}
}

func TestDeclinedIsTheEnd(t *testing.T) {
	t.Parallel()
	p := begun(t)
	if err := p.Decline("no funds"); err != nil || p.Snapshot().Reason != "no funds" {
		t.Fatalf("%+v, %v", p.Snapshot(), err)
	}
	for _, err := range []error{p.BeginCapture(), p.BeginVoid(), p.BeginRefund(), p.Authorize("a-1")} {
		if !errors.Is(err, domain.ErrWrongState) {
			t.Errorf("got %v", err)
		}
	}
}

func TestKeysTellOperationsAndPaymentsApart(t *testing.T) {
	t.Parallel()
	id := domain.PaymentID("o-1")
	if again := domain.PaymentID("o-1"); id.Key(domain.OpCapture) != again.Key(domain.OpCapture) {
		t.Error("the same operation has two keys")
	}
	other := domain.PaymentID("o-2")
	if id.Key(domain.OpCapture) == id.Key(domain.OpVoid) || id.Key(domain.OpVoid) == other.Key(domain.OpVoid) {
		t.Error("two operations share a key")
	}
}

// Whatever is tried: money is taken once at most, given back only if taken, and never both voided and taken.
func TestPaymentStateMachine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := begun(t)
		var told []any
		try := func(f func() error) func(*rapid.T) {
			return func(*rapid.T) { _ = f() }
		}
		t.Repeat(map[string]func(*rapid.T){
			"authorize":       try(func() error { return p.Authorize("a") }),
			"decline":         try(func() error { return p.Decline("no") }),
			"begin capture":   try(func() error { return p.BeginCapture() }),
			"capture":         try(func() error { return p.Capture("c") }),
			"abandon capture": try(func() error { return p.AbandonCapture() }),
			"begin void":      try(func() error { return p.BeginVoid() }),
			"void":            try(func() error { return p.Void() }),
			"begin refund":    try(func() error { return p.BeginRefund() }),
			"refund":          try(func() error { return p.Refund("r") }),
			"reload": func(*rapid.T) {
				told = append(told, p.Recorded()...)
				p = domain.Restore(p.Snapshot(), p.Version)
			},
			"": func(t *rapid.T) { balance(t, append(told[:len(told):len(told)], p.Recorded()...)) },
		})
	})
}

func balance(t *rapid.T, told []any) {
	var taken, back, voided int
	for _, e := range told {
		switch e.(type) {
		case domain.PaymentCaptured:
			taken++
		case domain.PaymentRefunded:
			back++
		case domain.PaymentVoided:
			voided++
		}
	}
	if taken > 1 || back > taken || voided > 1 || taken+voided > 1 {
		t.Fatalf("taken %d, given back %d, voided %d", taken, back, voided)
	}
}
