package sagatest_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/internal/fulfil"
	"github.com/surge-go/surge/saga/sagatest"
)

func ok[C cqrs.Request[R], R any](r R) sagatest.Reply {
	return sagatest.Answer(func(context.Context, C) (R, error) { return r, nil })
}

func undone[C any]() sagatest.Reply {
	return sagatest.Undo(func(context.Context, C) error { return nil })
}

// world answers every command of the order saga; later replies take the place of earlier ones.
func world(more ...sagatest.Reply) []sagatest.Reply {
	return append([]sagatest.Reply{
		ok[fulfil.ReserveStock](fulfil.StockReserved{ReservationID: "r"}),
		ok[fulfil.AuthorizePayment](fulfil.PaymentAuthorized{PaymentID: "p"}),
		ok[fulfil.CreateShipment](fulfil.ShipmentCreated{ShipmentID: "s"}),
		ok[fulfil.CapturePayment](fulfil.PaymentCaptured{}),
		ok[fulfil.CommitStock](fulfil.Done{}), ok[fulfil.ConfirmOrder](fulfil.Done{}),
		ok[fulfil.DispatchShipment](fulfil.Done{}), ok[fulfil.RefundPayment](fulfil.Done{}),
		ok[fulfil.StopShipment](fulfil.Done{}), ok[fulfil.Restock](fulfil.Done{}), ok[fulfil.CloseOrder](fulfil.Done{}),
		undone[fulfil.ReleaseStock](), undone[fulfil.VoidPayment](), undone[fulfil.CancelShipment](),
		undone[fulfil.RejectOrder](),
	}, more...)
}

func declined[C cqrs.Request[R], R any]() sagatest.Reply {
	return sagatest.Answer(func(context.Context, C) (r R, err error) {
		return r, cqrs.Reject("declined", errors.New("no funds"))
	})
}

func silent[C cqrs.Request[R], R any](times int, then R) sagatest.Reply {
	return sagatest.Answer(func(context.Context, C) (r R, err error) {
		if times--; times >= 0 {
			return r, errors.New("silence")
		}
		return then, nil
	})
}

var (
	forward = []string{"reserve-stock", "authorize-payment", "create-shipment", "capture-payment"}
	behind  = []string{"commit-stock", "confirm-order", "dispatch-shipment"}
	refund  = []string{"refund-payment", "stop-shipment", "close-order"}
)

func TestFulfilOrder(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		replies []sagatest.Reply
		status  saga.Status
		steps   []string
		why     string
	}{
		"everything goes well": {
			status: saga.Completed, steps: slices.Concat(forward, behind),
		},
		"a declined card releases the stock": {
			replies: []sagatest.Reply{declined[fulfil.AuthorizePayment]()},
			status:  saga.Compensated, why: "declined",
			steps: []string{"reserve-stock", "authorize-payment", "undo reserve-stock", "undo order"},
		},
		"a refused first step only rejects the order": {
			replies: []sagatest.Reply{declined[fulfil.ReserveStock]()},
			status:  saga.Compensated, why: "declined", steps: []string{"reserve-stock", "undo order"},
		},
		"a refused pivot undoes all before it, in reverse": {
			replies: []sagatest.Reply{declined[fulfil.CapturePayment]()},
			status:  saga.Compensated, why: "declined",
			steps: append(slices.Clone(forward), "undo create-shipment", "undo authorize-payment",
				"undo reserve-stock", "undo order"),
		},
		"a refusal behind the pivot parks": {
			replies: []sagatest.Reply{declined[fulfil.ConfirmOrder]()},
			status:  saga.Parked, steps: slices.Concat(forward, behind[:2]),
		},
		"a cancel while the stock is being reserved compensates": {
			replies: []sagatest.Reply{sagatest.CancelAt("reserve-stock", "changed my mind")},
			status:  saga.Compensated, why: "changed my mind",
			steps: []string{"reserve-stock", "undo reserve-stock", "undo order"},
		},
		"a cancel while the pivot is out lets it settle and refunds": {
			replies: []sagatest.Reply{sagatest.CancelAt("capture-payment", "too late")},
			status:  saga.Cancelled, why: "too late", steps: slices.Concat(forward, refund),
		},
		"a cancel behind the pivot lets the step in flight settle": {
			replies: []sagatest.Reply{sagatest.CancelAt("commit-stock", "too late")},
			status:  saga.Cancelled, why: "too late",
			steps: slices.Concat(forward, behind[:1], refund[:2], []string{"restock"}, refund[2:]),
		},
		"a cancel after the end refunds": {
			replies: []sagatest.Reply{sagatest.CancelAt("", "returned")},
			status:  saga.Cancelled, why: "returned",
			steps: slices.Concat(forward, behind, refund[:2], []string{"restock"}, refund[2:]),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := sagatest.Run(t, fulfil.Order, fulfil.State{OrderID: "o"}, world(c.replies...)...)
			if got.Status != c.status || got.State.Why != c.why || !slices.Equal(got.Steps, c.steps) {
				t.Errorf("got %s, why %q, reason %q, steps\n %q, want %s, %q\n %q",
					got.Status, got.State.Why, got.Reason, got.Steps, c.status, c.why, c.steps)
			}
		})
	}
}

func TestSilenceBeforeThePivotIsUndone(t *testing.T) {
	t.Parallel()
	got := sagatest.Run(t, fulfil.Order, fulfil.State{OrderID: "o"},
		world(silent[fulfil.AuthorizePayment](9, fulfil.PaymentAuthorized{}))...)
	want := []string{
		"reserve-stock", "authorize-payment", "authorize-payment",
		"undo authorize-payment", "undo reserve-stock", "undo order",
	}
	if got.Status != saga.Compensated || !slices.Equal(got.Steps, want) {
		t.Errorf("got %s, steps %q", got.Status, got.Steps)
	}
	if want := 20*time.Second + 100*time.Millisecond; got.Took != want {
		t.Errorf("took %s, want two timeouts and a backoff: %s", got.Took, want)
	}
}

func TestSilenceOfThePivotParks(t *testing.T) {
	t.Parallel()
	got := sagatest.Run(t, fulfil.Order, fulfil.State{OrderID: "o"},
		world(silent[fulfil.CapturePayment](99, fulfil.PaymentCaptured{}))...)
	if got.Status != saga.Parked || got.Step != "capture-payment" || len(got.Sent) != 3+5 {
		t.Errorf("got %s at %q (%s) after %q", got.Status, got.Step, got.Reason, got.Steps)
	}
}

func TestNotExecutedIsSentAgainUnderTheNextIncarnation(t *testing.T) {
	t.Parallel()
	calls := 0
	got := sagatest.Run(t, fulfil.Order, fulfil.State{OrderID: "o"}, world(
		sagatest.Answer(func(context.Context, fulfil.CapturePayment) (r fulfil.PaymentCaptured, err error) {
			if calls++; calls < 3 {
				return r, cqrs.ErrNotExecuted
			}
			return r, nil
		}))...)
	if got.Status != saga.Completed || calls != 3 {
		t.Errorf("got %s after %d calls", got.Status, calls)
	}
}

func TestUndoNamesItsIncarnation(t *testing.T) {
	t.Parallel()
	calls := 0
	got := sagatest.Run(t, fulfil.Order, fulfil.State{OrderID: "o"}, world(declined[fulfil.CapturePayment](),
		sagatest.Answer(func(context.Context, fulfil.ReserveStock) (r fulfil.StockReserved, err error) {
			if calls++; calls < 2 {
				return r, cqrs.ErrNotExecuted
			}
			return r, nil
		}))...)
	if got.Status != saga.Compensated || got.Took > time.Second {
		t.Errorf("got %s (%s) after %s: the undo of the second incarnation was not answered", got.Status, got.Reason, got.Took)
	}
}
