package sagatest_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga/internal/fulfil"
	"github.com/surge-go/surge/saga/sagatest"
)

// A declined card releases the stock.
func ExampleRun() {
	t := &fakeT{} // stands for *testing.T
	got := sagatest.Run(t, fulfil.Order, fulfil.State{OrderID: "o-1"},
		sagatest.Answer(func(context.Context, fulfil.ReserveStock) (fulfil.StockReserved, error) {
			return fulfil.StockReserved{ReservationID: "r-1"}, nil
		}),
		sagatest.Answer(func(context.Context, fulfil.AuthorizePayment) (fulfil.PaymentAuthorized, error) {
			return fulfil.PaymentAuthorized{}, cqrs.Reject("declined", errors.New("no funds"))
		}),
		sagatest.Undo(func(context.Context, fulfil.ReleaseStock) error { return nil }),
		sagatest.Undo(func(context.Context, fulfil.RejectOrder) error { return nil }),
	)
	fmt.Println(got.Status, got.State.Why)
	for _, s := range got.Steps {
		fmt.Println(s)
	}
	// Output:
	// compensated declined
	// reserve-stock
	// authorize-payment
	// undo reserve-stock
	// undo order
}
