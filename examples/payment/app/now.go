package app

import (
	"context"
	"errors"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/aggregate"
	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/examples/payment/domain"
)

// Perform does at once what an effect does in its own time, for a caller who waits: it records the intent, asks the
// provider outside of any transaction, and applies the answer. Repeating it after a crash goes on where it stopped.
// Card and amount are for an authorization. A payment that is busy is domain.ErrBusy, and no rejection: it passes.
func (s *Payments) Perform(
	ctx context.Context, work cqrs.UnitOfWork, op domain.Operation, c contracts.AuthorizePayment,
) (PaymentView, error) {
	o, ok := operations[op]
	if !ok {
		return PaymentView{}, cqrs.Reject(Invalid, errors.New("there is no operation "+string(op)))
	}
	var key string
	var r domain.Request
	err := work.Do(ctx, func(ctx context.Context) (err error) {
		if op == domain.OpAuthorize {
			key, r, err = s.beginNew(ctx, c)
		} else {
			key, r, err = s.begin(ctx, o, domain.PaymentID(c.OrderID))
		}
		return err
	})
	if err != nil {
		return PaymentView{}, err
	}
	p, err := s.finish(ctx, work, o, key, r)
	return viewOf(p), err
}

// finish asks the provider for what was recorded, and applies the answer. Several may do so at the same time: the key
// brings them the same answer, and the first one to apply it is the only one.
func (s *Payments) finish(
	ctx context.Context, work cqrs.UnitOfWork, o operation, key string, r domain.Request,
) (p domain.Snapshot, err error) {
	answer, err := s.call(ctx, o, key, r)
	no := cqrs.AsRejection(err)
	if err != nil && no == nil {
		return p, err
	}
	failed := work.Do(ctx, func(ctx context.Context) (err error) {
		p, err = s.settle(ctx, r.Payment, func(p *domain.Payment) error {
			switch {
			case no == nil:
				return o.done(p, answer)
			case o.refuse != nil:
				return o.refuse(p, no.Error())
			}
			return nil
		})
		return err
	})
	return p, errors.Join(err, failed)
}

var operations = map[domain.Operation]operation{
	domain.OpAuthorize: authorize, domain.OpCapture: capture, domain.OpVoid: void, domain.OpRefund: refund,
}

// beginNew records the intent of an authorization. The same command again finds it there.
func (s *Payments) beginNew(ctx context.Context, c contracts.AuthorizePayment) (string, domain.Request, error) {
	p, err := domain.Begin(domain.PaymentID(c.OrderID), c.Card, domain.Money(c.Amount))
	if err != nil {
		return "", domain.Request{}, cqrs.Reject(Invalid, err)
	}
	err = s.Repository.Save(ctx, p)
	if errors.Is(err, aggregate.ErrExists) {
		p, err = s.same(ctx, p.Snapshot())
	}
	if err != nil {
		return "", domain.Request{}, err
	}
	key, r := request(p.Snapshot(), domain.OpAuthorize)
	return key, r, nil
}

// same returns the payment that is there, unless another one was asked for.
func (s *Payments) same(ctx context.Context, asked domain.Snapshot) (*domain.Payment, error) {
	p, err := s.Repository.Get(ctx, asked.ID)
	if err != nil {
		return nil, err
	}
	if is := p.Snapshot(); is.Card != asked.Card || is.Amount != asked.Amount {
		return nil, cqrs.Reject(Different, errors.New("the order has a payment with another card or amount"))
	}
	return p, nil
}

func viewOf(p domain.Snapshot) PaymentView {
	return PaymentView{ID: string(p.ID), Status: string(p.Status), Amount: int64(p.Amount), Reason: p.Reason}
}
