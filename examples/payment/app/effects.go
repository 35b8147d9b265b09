package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/effect"
	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/examples/payment/domain"
)

// Codes of this service's rejections, beside [contracts.Declined].
const (
	Invalid    = "invalid"
	WrongState = "wrong_state"
	Different  = "different" // from the payment that the order has
	Refused    = "refused"   // by the provider, who has the money in another state than we
)

// Payments makes the effects. Both fields are required.
type Payments struct {
	Repository domain.Payments
	Provider   domain.Provider
}

// operation is a step of a payment: how its intent is recorded and how its answer is applied.
type operation struct {
	op     domain.Operation
	begin  func(*domain.Payment) error
	done   func(*domain.Payment, domain.Answer) error
	refuse func(*domain.Payment, string) error // nil: the intent stays open for an operator to look at
	code   string                              // of the rejection when the provider refuses
}

var (
	authorize = operation{
		op:     domain.OpAuthorize,
		begin:  func(*domain.Payment) error { return nil },
		done:   func(p *domain.Payment, a domain.Answer) error { return p.Authorize(a.Name) },
		refuse: (*domain.Payment).Decline,
		code:   contracts.Declined,
	}
	capture = operation{
		op:     domain.OpCapture,
		begin:  (*domain.Payment).BeginCapture,
		done:   func(p *domain.Payment, a domain.Answer) error { return p.Capture(a.Name) },
		refuse: func(p *domain.Payment, _ string) error { return p.AbandonCapture() },
		code:   Refused,
	}
	void = operation{
		op:    domain.OpVoid,
		begin: (*domain.Payment).BeginVoid,
		done:  func(p *domain.Payment, _ domain.Answer) error { return p.Void() },
		code:  Refused,
	}
	refund = operation{
		op:    domain.OpRefund,
		begin: (*domain.Payment).BeginRefund,
		done:  func(p *domain.Payment, a domain.Answer) error { return p.Refund(a.Name) },
		code:  Refused,
	}
)

// Authorize is the effect of [contracts.AuthorizePayment].
func (s *Payments) Authorize() effect.Effect[
	contracts.AuthorizePayment, contracts.PaymentAuthorized, domain.Request, domain.Answer,
] {
	e := effectOf[contracts.AuthorizePayment](s, authorize, nil,
		func(p domain.Snapshot) contracts.PaymentAuthorized {
			return contracts.PaymentAuthorized{OrderID: string(p.ID), Amount: int64(p.Amount)}
		})
	e.Intent = s.beginNew
	return e
}

// Capture is the effect of [contracts.CapturePayment].
func (s *Payments) Capture() effect.Effect[
	contracts.CapturePayment, contracts.PaymentCaptured, domain.Request, domain.Answer,
] {
	return effectOf(s, capture, func(c contracts.CapturePayment) string { return c.OrderID },
		func(p domain.Snapshot) contracts.PaymentCaptured {
			return contracts.PaymentCaptured{OrderID: string(p.ID), Amount: int64(p.Amount)}
		})
}

// Void is the effect of [contracts.VoidPayment].
func (s *Payments) Void() effect.Effect[
	contracts.VoidPayment, contracts.PaymentVoided, domain.Request, domain.Answer,
] {
	return effectOf(s, void, func(c contracts.VoidPayment) string { return c.OrderID },
		func(p domain.Snapshot) contracts.PaymentVoided { return contracts.PaymentVoided{OrderID: string(p.ID)} })
}

// Refund is the effect of [contracts.RefundPayment].
func (s *Payments) Refund() effect.Effect[
	contracts.RefundPayment, contracts.PaymentRefunded, domain.Request, domain.Answer,
] {
	return effectOf(s, refund, func(c contracts.RefundPayment) string { return c.OrderID },
		func(p domain.Snapshot) contracts.PaymentRefunded {
			return contracts.PaymentRefunded{OrderID: string(p.ID), Amount: int64(p.Amount)}
		})
}

// effectOf makes an effect of an operation on a payment that is there.
func effectOf[C cqrs.Request[R], R any](
	s *Payments, o operation, id func(C) string, reply func(domain.Snapshot) R,
) effect.Effect[C, R, domain.Request, domain.Answer] {
	return effect.Effect[C, R, domain.Request, domain.Answer]{
		Name: "payment." + string(o.op),
		Intent: func(ctx context.Context, c C) (string, domain.Request, error) {
			return s.begin(ctx, o, domain.PaymentID(id(c)))
		},
		Call: func(ctx context.Context, key string, r domain.Request) (domain.Answer, error) {
			return s.call(ctx, o, key, r)
		},
		Settle: func(ctx context.Context, _ C, r domain.Request, a domain.Answer) (R, error) {
			p, err := s.settle(ctx, r.Payment, func(p *domain.Payment) error { return o.done(p, a) })
			return reply(p), err
		},
		Refuse: func(ctx context.Context, _ C, r domain.Request, no *cqrs.Rejection) error {
			if o.refuse == nil {
				return nil
			}
			_, err := s.settle(ctx, r.Payment, func(p *domain.Payment) error { return o.refuse(p, no.Error()) })
			return err
		},
	}
}

// begin records the intent. A payment that is busy with another one is tried again a little later.
func (s *Payments) begin(ctx context.Context, o operation, id domain.PaymentID) (string, domain.Request, error) {
	p, err := s.Repository.Get(ctx, id)
	if err != nil {
		return "", domain.Request{}, err
	}
	was := p.Status()
	switch err := o.begin(p); {
	case errors.Is(err, domain.ErrBusy):
		return "", domain.Request{}, cqrs.Later(0, err)
	case err != nil:
		return "", domain.Request{}, cqrs.Reject(WrongState, err)
	}
	if p.Status() != was {
		if err := s.Repository.Save(ctx, p); err != nil {
			return "", domain.Request{}, err
		}
	}
	key, r := request(p.Snapshot(), o.op)
	return key, r, nil
}

func request(p domain.Snapshot, op domain.Operation) (string, domain.Request) {
	r := domain.Request{Operation: op, Payment: p.ID, Card: p.Card, Amount: p.Amount}
	switch op {
	case domain.OpCapture, domain.OpVoid:
		r.Reference = p.Authorization
	case domain.OpRefund:
		r.Reference = p.Capture
	case domain.OpAuthorize:
	}
	return p.ID.Key(op), r
}

// call asks the provider. A refusal is the business's no; an error leaves the outcome to be found out.
func (s *Payments) call(ctx context.Context, o operation, key string, r domain.Request) (domain.Answer, error) {
	a, err := s.Provider.Do(ctx, key, r)
	if err != nil {
		return a, fmt.Errorf("payment: %s %s: %w", o.op, r.Payment, err)
	}
	if a.Refused != "" {
		return a, cqrs.Reject(o.code, errors.New(a.Refused))
	}
	return a, nil
}

// settle applies an answer. One that was applied before, because the command came twice, changes nothing.
func (s *Payments) settle(
	ctx context.Context, id domain.PaymentID, apply func(*domain.Payment) error,
) (domain.Snapshot, error) {
	p, err := s.Repository.Get(ctx, id)
	if err != nil {
		return domain.Snapshot{}, err
	}
	switch err := apply(p); {
	case errors.Is(err, domain.ErrWrongState):
		return p.Snapshot(), nil
	case err != nil:
		return p.Snapshot(), err
	}
	return p.Snapshot(), s.Repository.Save(ctx, p)
}
