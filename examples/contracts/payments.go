package contracts

import "github.com/surge-go/surge/cqrs"

// PaymentAuthorized says that the money for an order is set aside: the answer to [AuthorizePayment].
type PaymentAuthorized struct {
	OrderID string `json:"order_id"`
	Amount  int64  `json:"amount"`
}

// PaymentDeclined says that there is no money for an order.
type PaymentDeclined struct {
	OrderID string `json:"order_id"`
	Reason  string `json:"reason"`
}

// PaymentCaptured says that the money was taken. It is also the answer to [CapturePayment].
type PaymentCaptured struct {
	OrderID string `json:"order_id"`
	Amount  int64  `json:"amount"`
}

// PaymentVoided says that the money is no longer set aside.
type PaymentVoided struct {
	OrderID string `json:"order_id"`
}

// PaymentRefunded says that the money went back. It is also the answer to [RefundPayment].
type PaymentRefunded struct {
	OrderID string `json:"order_id"`
	Amount  int64  `json:"amount"`
}

// Declined is the code of the rejection of [AuthorizePayment] when there is no money.
const Declined = "declined"

// AuthorizePayment sets the money for an order aside.
type AuthorizePayment struct {
	cqrs.Returns[PaymentAuthorized] `json:"-"`

	OrderID string `json:"order_id"`
	Card    string `json:"card"`
	Amount  int64  `json:"amount"`
}

// VoidPayment undoes [AuthorizePayment].
type VoidPayment struct {
	cqrs.Returns[PaymentVoided] `json:"-"`

	OrderID string `json:"order_id"`
}

// CapturePayment takes the money that was set aside. There is no way back from it but a refund.
type CapturePayment struct {
	cqrs.Returns[PaymentCaptured] `json:"-"`

	OrderID string `json:"order_id"`
}

// RefundPayment gives the money back.
type RefundPayment struct {
	cqrs.Returns[PaymentRefunded] `json:"-"`

	OrderID string `json:"order_id"`
}

// Payments lists the payment service's messages.
func Payments() []cqrs.Type {
	return []cqrs.Type{
		event("payments.declined", func(e PaymentDeclined) string { return e.OrderID }),
		event("payments.captured", func(e PaymentCaptured) string { return e.OrderID }),
		event("payments.voided", func(e PaymentVoided) string { return e.OrderID }),
		event("payments.refunded", func(e PaymentRefunded) string { return e.OrderID }),
		command("payments.authorize", func(c AuthorizePayment) string { return c.OrderID }),
		command("payments.void", func(c VoidPayment) string { return c.OrderID }),
		command("payments.capture", func(c CapturePayment) string { return c.OrderID }),
		command("payments.refund", func(c RefundPayment) string { return c.OrderID }),
	}
}
