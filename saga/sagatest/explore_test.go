package sagatest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/internal/fulfil"
	"github.com/surge-go/surge/saga/sagatest"
)

// moneyAndGoods holds in every state of the order saga.
func moneyAndGoods(i saga.Instance[fulfil.State]) error {
	s := i.State
	switch {
	case i.Status == saga.Completed && (!s.Captured || !s.Committed || !s.Confirmed || !s.Dispatched):
		return errors.New("completed, but not everything was done")
	case i.Status == saga.Compensated && s.Captured:
		return errors.New("charged and rejected")
	case i.Status == saga.Cancelled && !s.Refunded:
		return errors.New("cancelled behind the pivot without a refund")
	case s.Captured && s.ReservationID == "":
		return errors.New("charged without stock")
	}
	return nil
}

func TestExploreFulfilOrder(t *testing.T) {
	t.Parallel()
	states := sagatest.ExploreN(t, fulfil.Order, fulfil.State{OrderID: "o"}, 2, moneyAndGoods)
	if states < 1000 {
		t.Errorf("only %d states: the explorer does not explore", states)
	}
	t.Logf("%d states", states)
}

type (
	trip  struct{ Flight, Hotel, Paid, Visa string }
	book  struct{ cqrs.Returns[booked] }
	rent  struct{ cqrs.Returns[booked] }
	pay   struct{ cqrs.Returns[booked] }
	tell  struct{ cqrs.Returns[booked] }
	drop  struct{ What string }
	visa  struct{ No string }
	stamp struct{ No string }

	booked struct{ No string }
)

func dropped(what string) saga.Compensation[trip] {
	return saga.Command(func(*trip) drop { return drop{what} })
}

var wide = saga.MustDefine("trip", 1,
	saga.Parallel("reserve",
		saga.Step[trip, book, booked]{
			Name: "flight", Undo: dropped("flight"), Retry: cqrs.Retry{Attempts: 2},
			Do: func(*trip) (b book) { return b }, Done: func(t *trip, b booked) { t.Flight = b.No },
		},
		saga.When("wants-hotel", func(*trip) bool { return true },
			saga.Step[trip, rent, booked]{
				Name: "hotel", Undo: dropped("hotel"), Retry: cqrs.Retry{Attempts: 2},
				Do: func(*trip) (r rent) { return r }, Done: func(t *trip, b booked) { t.Hotel = b.No },
			}),
		saga.Wait[trip, visa]{Name: "visa", On: func(t *trip, v visa) { t.Visa = v.No }},
	),
	saga.Sub[trip, string]{
		Name: "payment", In: func(*trip) string { return "" }, Out: func(t *trip, s string) { t.Paid = s },
		Saga: saga.MustDefine("payment", 1, saga.Step[string, pay, booked]{
			Name: "pay", Pivot: true, Retry: cqrs.Retry{Attempts: 2},
			Do: func(*string) (p pay) { return p }, Done: func(s *string, b booked) { *s = b.No },
		}),
	},
	saga.Local[trip]{Name: "note", Do: func(context.Context, *trip) error { return nil }},
	saga.Wait[trip, stamp]{Name: "stamp"}, // its event may come long before
	saga.Step[trip, tell, booked]{Name: "tell", Do: func(*trip) (p tell) { return p }},
)

func TestExploreParallelWhenWaitSub(t *testing.T) {
	t.Parallel()
	states := sagatest.ExploreN(t, wide, trip{}, 2, func(i saga.Instance[trip]) error {
		s := i.State
		if s.Paid != "" && (s.Flight == "" || s.Hotel == "" || s.Visa == "") {
			return errors.New("paid for half a trip")
		}
		if i.Status == saga.Completed && s.Paid == "" {
			return errors.New("traveled for nothing")
		}
		return nil
	})
	t.Logf("%d states", states)
}

// fakeT catches what Explore has to say.
type fakeT struct {
	testing.TB
	said string
}

func (f *fakeT) Helper() {}
func (f *fakeT) Fatalf(format string, args ...any) {
	f.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func exploreFails[S any](d *saga.Definition[S], start S, inv ...sagatest.Invariant[S]) string {
	f := &fakeT{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		sagatest.Explore(f, d, start, inv...)
	}()
	<-done
	return f.said
}

func TestExplorePrintsTheShortestTrace(t *testing.T) {
	t.Parallel()
	said := exploreFails(fulfil.Order, fulfil.State{}, func(i saga.Instance[fulfil.State]) error {
		if i.Status == saga.Compensated && i.State.PaymentID != "" {
			return errors.New("authorized and undone")
		}
		return nil
	})
	if !strings.Contains(said, "authorized and undone") || !strings.Contains(said, "1. start") {
		t.Fatalf("got %q", said)
	}
	if n := strings.Count(said, "\n"); n > 16 {
		t.Errorf("a trace of %d lines is not the shortest:\n%s", n, said)
	}
}

func TestExploreFindsAFunctionThatIsNotPure(t *testing.T) {
	t.Parallel()
	calls := 0
	d := saga.MustDefine("impure", 1, saga.Step[trip, pay, booked]{
		Name: "pay", Pivot: true, Do: func(*trip) (p pay) { return p },
		Done: func(s *trip, _ booked) { calls++; s.Paid = strings.Repeat("x", calls) },
	})
	if said := exploreFails(d, trip{}); !strings.Contains(said, "not pure") {
		t.Errorf("got %q", said)
	}
}
