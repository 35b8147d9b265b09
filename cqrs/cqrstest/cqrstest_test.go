package cqrstest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/aggregate"
	"github.com/surge-go/surge/cqrs/cqrstest"
)

type Stock struct {
	aggregate.Root
	SKU   string
	Units int
}

var _ aggregate.Repository[Stock, string] = cqrstest.NewRepository[Stock, string](sku)

func sku(s *Stock) string { return s.SKU }

type Restocked struct {
	SKU   string
	Units int
}
type Reserve struct {
	cqrs.Returns[int]
	SKU string
}
type (
	Reserved struct{ SKU string }
	Shipped  struct{ SKU string }
)

var messages = cqrs.NewCatalog(
	cqrs.Event[Restocked]{Name: "stock.restocked"},
	cqrs.Command[Reserve]{Name: "stock.reserve"},
	cqrs.Event[Reserved]{Name: "stock.reserved"},
	cqrs.Event[Shipped]{Name: "shipping.shipped"},
)

// register is what a service under test does.
func register(p *cqrs.Processor, s *cqrs.Sender) {
	stock := cqrstest.NewRepository[Stock, string](sku)
	stock.Publisher = s
	cqrs.On(p, func(ctx context.Context, e Restocked) error {
		if e.Units < 0 {
			return errors.New("negative units")
		}
		return stock.Save(ctx, &Stock{SKU: e.SKU, Units: e.Units})
	})
	cqrs.Handle(p, func(ctx context.Context, c Reserve) (int, error) {
		s, err := stock.Get(ctx, c.SKU)
		if err != nil {
			return 0, err
		}
		if s.Units == 0 {
			return 0, cqrs.Reject("sold_out", nil)
		}
		s.Units--
		s.Record(Reserved{c.SKU})
		return s.Units, stock.Save(ctx, s)
	})
}

func TestScenario(t *testing.T) {
	t.Parallel()
	s := cqrstest.NewScenario(t, messages, register)
	s.Given(Restocked{"hat", 2}).When(Reserve{SKU: "hat"}).Then(Reserved{"hat"})
	if left := cqrstest.Result[int](s); left != 1 {
		t.Errorf("result = %d, want 1", left)
	}
	s.Given(Reserve{SKU: "hat"}).When(Reserve{SKU: "hat"}).ThenRejected("sold_out")
	if got := cqrstest.SentOf[Reserved](s.Recorder); len(got) != 0 {
		t.Errorf("sent %v", got)
	}
}

// probe is a testing.TB that notes failures instead of failing.
type probe struct {
	testing.TB
	failures []string
}

func (p *probe) Helper() {}
func (p *probe) Errorf(format string, a ...any) {
	p.failures = append(p.failures, fmt.Sprintf(format, a...))
}
func (p *probe) Fatalf(format string, a ...any) { p.Errorf(format, a...); panic(p) }

func TestScenarioFailsTheTest(t *testing.T) {
	t.Parallel()
	for want, run := range map[string]func(*cqrstest.Scenario){
		"sent": func(s *cqrstest.Scenario) { s.When(Reserve{SKU: "hat"}).Then() },
		"want \"other\"": func(s *cqrstest.Scenario) {
			s.Given(Reserve{SKU: "hat"}).When(Reserve{SKU: "hat"}).ThenRejected("other")
		},
		"not refused":              func(s *cqrstest.Scenario) { s.When(Reserve{SKU: "hat"}).ThenRejected("sold_out") },
		"not found":                func(s *cqrstest.Scenario) { s.When(Reserve{SKU: "sock"}) },
		"not in the cat":           func(s *cqrstest.Scenario) { s.When(5) },
		"nobody handles":           func(s *cqrstest.Scenario) { s.When(Shipped{}) },
		"handles \"stock.reserved": func(s *cqrstest.Scenario) { s.When(Reserved{"hat"}).Then() }, // of a topic that is read
		"no result":                func(s *cqrstest.Scenario) { s.When(Restocked{"sock", 1}); cqrstest.Result[int](s) },
		"refused":                  func(s *cqrstest.Scenario) { s.Given(Reserve{SKU: "hat"}, Reserve{SKU: "hat"}) },
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			p := &probe{TB: t}
			s := cqrstest.NewScenario(p, messages, register)
			s.Given(Restocked{"hat", 1})
			func() {
				defer func() { _ = recover() }()
				run(s)
			}()
			if !strings.Contains(strings.Join(p.failures, "\n"), want) {
				t.Errorf("failures = %q, want %q", p.failures, want)
			}
		})
	}
}

func TestRepositoryHasVersionsAndConflicts(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := cqrstest.NewRepository[Stock, string](sku)
	s := &Stock{SKU: "hat", Units: 1}
	s.Record(Restocked{"hat", 1})
	if err := r.Save(ctx, s); err != nil || s.Version != 1 || len(s.Recorded()) != 0 {
		t.Fatalf("Save = %v, version %d", err, s.Version)
	}
	if err := r.Save(ctx, &Stock{SKU: "hat"}); !errors.Is(err, aggregate.ErrExists) {
		t.Errorf("second insert = %v", err)
	}
	one, _ := r.Get(ctx, "hat")
	two, _ := r.Get(ctx, "hat")
	one.Units = 5
	if again, _ := r.Get(ctx, "hat"); again.Units != 1 {
		t.Error("an unsaved change is seen")
	}
	if err := r.Save(ctx, one); err != nil {
		t.Fatal(err)
	}
	if err := r.Save(ctx, two); !errors.Is(err, aggregate.ErrConflict) {
		t.Errorf("stale Save = %v", err)
	}
	if err := r.Delete(ctx, two); !errors.Is(err, aggregate.ErrConflict) {
		t.Errorf("stale Delete = %v", err)
	}
	if err := r.Delete(ctx, one); err != nil {
		t.Errorf("Delete = %v", err)
	}
	if _, err := r.Get(ctx, "hat"); !errors.Is(err, aggregate.ErrNotFound) {
		t.Errorf("Get after Delete = %v", err)
	}
	if len(r.Events()) != 1 {
		t.Errorf("events = %v", r.Events())
	}
}
