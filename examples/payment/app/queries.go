package app

import (
	"github.com/surge-go/surge/cqrs/query"
	"github.com/surge-go/surge/examples/payment/domain"
)

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

// ListOpen asks for the payments with an open intent, sorted by ID.
type ListOpen struct {
	query.Returns[[]OpenPayment]
}

// OpenPayment is a payment at the provider, with the version in which it was read.
type OpenPayment struct {
	domain.Snapshot

	Version int64
}
