package app

import "github.com/surge-go/surge/cqrs/query"

// GetPayment asks for the payment of an order; aggregate.ErrNotFound if there is none.
type GetPayment struct {
	query.Returns[PaymentView]

	ID string
}

// PaymentView is a payment as its customer sees it.
type PaymentView struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Amount int64  `json:"amount"`
	Reason string `json:"reason,omitempty"`
}
