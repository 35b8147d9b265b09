package app

import (
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/saga"
)

// Fulfilment is what the saga knows of its order.
type Fulfilment struct {
	OrderID  string           `json:"order_id"`
	Customer string           `json:"customer"`
	Card     string           `json:"card"`
	Lines    []contracts.Line `json:"lines"`
	Total    int64            `json:"total"`
	Why      string           `json:"why,omitempty"` // it is undone
}

// Begin is the fulfilment of an order that was placed, and its key.
func Begin(e contracts.OrderPlaced) (key string, f Fulfilment) {
	return e.OrderID, Fulfilment{
		OrderID: e.OrderID, Customer: e.Customer, Card: e.Card, Lines: e.Lines, Total: e.Total,
	}
}

func (f *Fulfilment) reject() contracts.RejectOrder {
	return contracts.RejectOrder{OrderID: f.OrderID, Reason: f.Why}
}

func (f *Fulfilment) reserve() contracts.ReserveStock {
	return contracts.ReserveStock{OrderID: f.OrderID, Lines: f.Lines}
}

func (f *Fulfilment) release() contracts.ReleaseStock {
	return contracts.ReleaseStock{OrderID: f.OrderID}
}

func (f *Fulfilment) authorize() contracts.AuthorizePayment {
	return contracts.AuthorizePayment{OrderID: f.OrderID, Card: f.Card, Amount: f.Total}
}

func (f *Fulfilment) void() contracts.VoidPayment { return contracts.VoidPayment{OrderID: f.OrderID} }

func (f *Fulfilment) create() contracts.CreateShipment {
	units := 0
	for _, l := range f.Lines {
		units += l.Quantity
	}
	return contracts.CreateShipment{OrderID: f.OrderID, Customer: f.Customer, Units: units}
}

func (f *Fulfilment) cancelShipment() contracts.CancelShipment {
	return contracts.CancelShipment{OrderID: f.OrderID}
}

func (f *Fulfilment) capture() contracts.CapturePayment {
	return contracts.CapturePayment{OrderID: f.OrderID}
}

func (f *Fulfilment) commit() contracts.CommitStock { return contracts.CommitStock{OrderID: f.OrderID} }

func (f *Fulfilment) confirm() contracts.ConfirmOrder {
	return contracts.ConfirmOrder{OrderID: f.OrderID}
}

func (f *Fulfilment) dispatch() contracts.DispatchShipment {
	return contracts.DispatchShipment{OrderID: f.OrderID}
}

func (f *Fulfilment) recall() contracts.RecallShipment {
	return contracts.RecallShipment{OrderID: f.OrderID}
}

func (f *Fulfilment) refund() contracts.RefundPayment {
	return contracts.RefundPayment{OrderID: f.OrderID}
}

func (f *Fulfilment) restock() contracts.ReturnStock {
	return contracts.ReturnStock{OrderID: f.OrderID}
}

func (f *Fulfilment) cancel() contracts.CancelOrder { return contracts.CancelOrder{OrderID: f.OrderID} }

func (f *Fulfilment) refused(no *cqrs.Rejection) { f.Why = no.Code }
func (f *Fulfilment) cancelled(reason string)    { f.Why = reason }

// patience is for steps that depend on somebody outside: an outage of the bank makes orders wait, not fail.
var patience = cqrs.Retry{Attempts: 50, Min: time.Second, Max: 30 * time.Second}

type step[C cqrs.Request[R], R any] = saga.Step[Fulfilment, C, R]

// Fulfil takes an order from placed to dispatched. Up to the charge everything can be undone; the charge is the
// point of no return, and what stands behind it was made firm before it and cannot fail for a business reason. A
// customer who cancels in time has everything undone; one who cancels later gets the money back, and the shop the
// goods.
var Fulfil = saga.MustDefine("fulfil-order", 1,
	saga.Local[Fulfilment]{Name: "accept", Undo: saga.Command((*Fulfilment).reject)},
	step[contracts.ReserveStock, contracts.StockReserved]{
		Name: "reserve-stock", Do: (*Fulfilment).reserve, Rejected: (*Fulfilment).refused,
		Undo: saga.Command((*Fulfilment).release),
	},
	step[contracts.AuthorizePayment, contracts.PaymentAuthorized]{
		Name: "authorize-payment", Do: (*Fulfilment).authorize, Rejected: (*Fulfilment).refused,
		Undo: saga.Command((*Fulfilment).void), Retry: patience,
	},
	step[contracts.CreateShipment, contracts.ShipmentCreated]{
		Name: "create-shipment", Do: (*Fulfilment).create, Rejected: (*Fulfilment).refused,
		Undo: saga.Command((*Fulfilment).cancelShipment),
	},
	step[contracts.CapturePayment, contracts.PaymentCaptured]{
		Name: "capture-payment", Do: (*Fulfilment).capture, Rejected: (*Fulfilment).refused,
		Pivot: true, Retry: patience,
	},
	step[contracts.CommitStock, contracts.StockCommitted]{Name: "commit-stock", Do: (*Fulfilment).commit},
	step[contracts.ConfirmOrder, contracts.OrderConfirmed]{Name: "confirm-order", Do: (*Fulfilment).confirm},
	step[contracts.DispatchShipment, contracts.ShipmentDispatched]{
		Name: "dispatch-shipment", Do: (*Fulfilment).dispatch,
	},
	saga.OnCancel[Fulfilment]{
		Name: "refund-order", Note: (*Fulfilment).cancelled,
		Then: []saga.Node[Fulfilment]{
			step[contracts.RecallShipment, contracts.ShipmentCancelled]{
				Name: "recall-shipment", Do: (*Fulfilment).recall,
			},
			step[contracts.RefundPayment, contracts.PaymentRefunded]{
				Name: "refund-payment", Do: (*Fulfilment).refund, Retry: patience,
			},
			step[contracts.ReturnStock, contracts.StockReleased]{Name: "return-stock", Do: (*Fulfilment).restock},
			step[contracts.CancelOrder, contracts.OrderCancelled]{Name: "cancel-order", Do: (*Fulfilment).cancel},
		},
	},
)
