package saga_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/internal/fulfil"
)

func everywhere(t *testing.T, test func(t *testing.T, dialect string)) {
	t.Helper()
	for dialect := range openers {
		t.Run(dialect, func(t *testing.T) {
			t.Parallel()
			test(t, dialect)
		})
	}
}

func TestOrdersFlowThroughRealServices(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		s := newShop(t, dialect, shopConfig{})
		no := cqrs.Reject("declined", errors.New("no funds"))
		var good, bad []string
		for i := range 40 {
			id := fmt.Sprintf("order-%d", i)
			if i%4 == 0 {
				s.fail(id, "authorize", no)
				bad = append(bad, id)
				continue
			}
			good = append(good, id)
		}
		s.fail("late-refusal", "capture", no)
		s.run()
		s.place(append(append(append([]string(nil), good...), bad...), "late-refusal")...)
		for _, id := range good {
			i := s.await(id, saga.Completed)
			if got := s.effects(id); got != "authorize capture commit confirm dispatch reserve ship" {
				t.Errorf("%s has %q", id, got)
			}
			if !i.State.Dispatched || i.State.ReservationID != "r" || i.Step != "" || !i.DueAt.IsZero() {
				t.Errorf("%s ended as %+v", id, i)
			}
		}
		for _, id := range append(bad, "late-refusal") {
			i := s.await(id, saga.Compensated)
			if got := s.effects(id); got != "reject" || i.State.Why != "declined" {
				t.Errorf("%s has %q, %+v", id, got, i)
			}
		}
		journal, err := s.engine.Journal(t.Context(), fulfil.Order.Name(), "order-1")
		if err != nil || len(journal) != 8 || journal[0].Entries[0].What != "start" {
			t.Errorf("journal %+v, %v", journal, err)
		}
	})
}
