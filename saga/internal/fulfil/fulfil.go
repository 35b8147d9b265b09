// Package fulfil holds the order saga that this module's tests run: stock, payment and shipment before a pivot, the
// capture of the money, three steps behind it, and a refund for those who cancel late.
package fulfil

import (
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga"
)

// Placed starts the saga; CancelWanted asks to cancel it.
type (
	Placed struct {
		OrderID, SKU string
		Cents        int64
	}
	CancelWanted struct{ OrderID, Reason string }
)

// Commands and replies.
type (
	ReserveStock struct {
		cqrs.Returns[StockReserved]
		OrderID, SKU string
	}
	StockReserved    struct{ ReservationID string }
	ReleaseStock     struct{ OrderID string }
	AuthorizePayment struct {
		cqrs.Returns[PaymentAuthorized]
		OrderID string
		Cents   int64
	}
	PaymentAuthorized struct{ PaymentID string }
	VoidPayment       struct{ OrderID string }
	CreateShipment    struct {
		cqrs.Returns[ShipmentCreated]
		OrderID string
	}
	ShipmentCreated struct{ ShipmentID string }
	CancelShipment  struct{ OrderID string }
	CapturePayment  struct {
		cqrs.Returns[PaymentCaptured]
		OrderID string
	}
	PaymentCaptured struct{ Cents int64 }
	CommitStock     struct {
		cqrs.Returns[Done]
		OrderID string
	}
	ConfirmOrder struct {
		cqrs.Returns[Done]
		OrderID string
	}
	DispatchShipment struct {
		cqrs.Returns[Done]
		OrderID string
	}
	RejectOrder   struct{ OrderID, Why string }
	RefundPayment struct {
		cqrs.Returns[Done]
		OrderID string
	}
	StopShipment struct {
		cqrs.Returns[Done]
		OrderID string
	}
	Restock struct {
		cqrs.Returns[Done]
		OrderID string
	}
	CloseOrder struct {
		cqrs.Returns[Done]
		OrderID, Why string
	}
	Done struct{ OK bool }
)

// State is the saga's state.
type State struct {
	OrderID, SKU, ReservationID, PaymentID, ShipmentID, Why string
	Cents                                                   int64
	Captured, Committed, Confirmed, Dispatched, Refunded    bool
}

// Begin makes the state of a placed order.
func Begin(e Placed) (string, State) {
	return e.OrderID, State{OrderID: e.OrderID, SKU: e.SKU, Cents: e.Cents}
}

func (s *State) declined(no *cqrs.Rejection) { s.Why = no.Code }

type step[C cqrs.Request[R], R any] = saga.Step[State, C, R]

// Order is the definition.
var Order = saga.MustDefine("fulfil-order", 1,
	saga.Local[State]{Name: "order", Undo: saga.Command(func(s *State) RejectOrder {
		return RejectOrder{s.OrderID, s.Why}
	})},
	step[ReserveStock, StockReserved]{
		Name:     "reserve-stock",
		Do:       func(s *State) ReserveStock { return ReserveStock{OrderID: s.OrderID, SKU: s.SKU} },
		Done:     func(s *State, r StockReserved) { s.ReservationID = r.ReservationID },
		Rejected: (*State).declined,
		Undo:     saga.Command(func(s *State) ReleaseStock { return ReleaseStock{s.OrderID} }),
	},
	step[AuthorizePayment, PaymentAuthorized]{
		Name:     "authorize-payment",
		Do:       func(s *State) AuthorizePayment { return AuthorizePayment{OrderID: s.OrderID, Cents: s.Cents} },
		Done:     func(s *State, r PaymentAuthorized) { s.PaymentID = r.PaymentID },
		Rejected: (*State).declined,
		Undo:     saga.Command(func(s *State) VoidPayment { return VoidPayment{s.OrderID} }),
		Timeout:  10 * time.Second,
		Retry:    cqrs.Retry{Attempts: 2},
	},
	step[CreateShipment, ShipmentCreated]{
		Name:     "create-shipment",
		Do:       func(s *State) CreateShipment { return CreateShipment{OrderID: s.OrderID} },
		Done:     func(s *State, r ShipmentCreated) { s.ShipmentID = r.ShipmentID },
		Rejected: (*State).declined,
		Undo:     saga.Command(func(s *State) CancelShipment { return CancelShipment{s.OrderID} }),
	},
	step[CapturePayment, PaymentCaptured]{
		Name:     "capture-payment",
		Do:       func(s *State) CapturePayment { return CapturePayment{OrderID: s.OrderID} },
		Done:     func(s *State, _ PaymentCaptured) { s.Captured = true },
		Rejected: (*State).declined,
		Pivot:    true,
	},
	step[CommitStock, Done]{
		Name: "commit-stock",
		Do:   func(s *State) CommitStock { return CommitStock{OrderID: s.OrderID} },
		Done: func(s *State, _ Done) { s.Committed = true },
	},
	step[ConfirmOrder, Done]{
		Name: "confirm-order",
		Do:   func(s *State) ConfirmOrder { return ConfirmOrder{OrderID: s.OrderID} },
		Done: func(s *State, _ Done) { s.Confirmed = true },
	},
	step[DispatchShipment, Done]{
		Name: "dispatch-shipment",
		Do:   func(s *State) DispatchShipment { return DispatchShipment{OrderID: s.OrderID} },
		Done: func(s *State, _ Done) { s.Dispatched = true },
	},
	saga.OnCancel[State]{
		Name: "refund-order",
		Note: func(s *State, why string) { s.Why = why },
		Then: []saga.Node[State]{
			step[RefundPayment, Done]{
				Name: "refund-payment",
				Do:   func(s *State) RefundPayment { return RefundPayment{OrderID: s.OrderID} },
				Done: func(s *State, _ Done) { s.Refunded = true },
			},
			step[StopShipment, Done]{
				Name: "stop-shipment",
				Do:   func(s *State) StopShipment { return StopShipment{OrderID: s.OrderID} },
			},
			saga.When("was-committed", func(s *State) bool { return s.Committed },
				step[Restock, Done]{
					Name: "restock",
					Do:   func(s *State) Restock { return Restock{OrderID: s.OrderID} },
				}),
			step[CloseOrder, Done]{
				Name: "close-order",
				Do:   func(s *State) CloseOrder { return CloseOrder{OrderID: s.OrderID, Why: s.Why} },
			},
		},
	},
)
