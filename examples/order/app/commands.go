package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/aggregate"
	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/examples/order/domain"
)

// Codes of this service's rejections.
const (
	Invalid    = "invalid"
	NotFound   = "not_found"
	WrongState = "wrong_state"
)

// PlaceOrder makes an order. It is executed in process only, so it is no part of the contract.
type PlaceOrder struct {
	cqrs.Returns[Receipt]

	ID       domain.OrderID
	Customer string
	Card     string
	Lines    []contracts.Line
}

// RequestCancel is a customer's wish to cancel their order.
type RequestCancel struct {
	cqrs.Returns[Receipt]

	ID       domain.OrderID
	Customer string
}

// Receipt is what a customer gets for an order or a wish.
type Receipt struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Total  int64  `json:"total"`
}

// Orders handles the commands about orders. Make it with its fields; all are required.
type Orders struct {
	Repository domain.Orders
	Prices     domain.Prices
	Now        func() time.Time
}

// Place handles [PlaceOrder]. An order that is there already under this ID is the same request again, whose key was
// forgotten since: it gets the same receipt.
func (o *Orders) Place(ctx context.Context, c PlaceOrder) (Receipt, error) {
	order, err := o.make(c)
	if err != nil {
		return Receipt{}, cqrs.Reject(Invalid, err)
	}
	err = o.Repository.Save(ctx, order)
	if errors.Is(err, aggregate.ErrExists) {
		return o.again(ctx, c)
	}
	return receipt(order), err
}

func (o *Orders) again(ctx context.Context, c PlaceOrder) (Receipt, error) {
	order, err := o.Repository.Get(ctx, c.ID)
	if err != nil {
		return Receipt{}, err
	}
	if string(order.Snapshot().Customer) != c.Customer {
		return Receipt{}, cqrs.Reject(Invalid, errors.New("the order's ID is taken"))
	}
	return receipt(order), nil
}

// make builds the order at today's prices.
func (o *Orders) make(c PlaceOrder) (*domain.Order, error) {
	customer, err := domain.NewCustomerID(c.Customer)
	if err != nil {
		return nil, err
	}
	lines := make([]domain.Line, len(c.Lines))
	for i, l := range c.Lines {
		price, ok := o.Prices.Price(domain.SKU(l.SKU))
		if !ok {
			return nil, fmt.Errorf("%w: there is no product %q", domain.ErrInvalid, l.SKU)
		}
		if lines[i], err = domain.NewLine(l.SKU, l.Quantity, price); err != nil {
			return nil, err
		}
	}
	return domain.Place(c.ID, customer, c.Card, lines, o.Now())
}

// RequestCancel handles [RequestCancel].
func (o *Orders) RequestCancel(ctx context.Context, c RequestCancel) (Receipt, error) {
	order, err := o.Repository.Get(ctx, c.ID)
	if err == nil && string(order.Snapshot().Customer) != c.Customer {
		err = aggregate.ErrNotFound // and nobody learns whose it is
	}
	if errors.Is(err, aggregate.ErrNotFound) {
		return Receipt{}, cqrs.Reject(NotFound, errors.New("there is no such order"))
	}
	if err != nil {
		return Receipt{}, err
	}
	if err := order.RequestCancel(o.Now()); err != nil {
		return Receipt{}, cqrs.Reject(WrongState, err)
	}
	return receipt(order), o.save(ctx, order)
}

// Confirm handles the saga's [contracts.ConfirmOrder]. It stands behind the point of no return: no business reason
// may stop it.
func (o *Orders) Confirm(ctx context.Context, c contracts.ConfirmOrder) (contracts.OrderConfirmed, error) {
	done := contracts.OrderConfirmed{OrderID: c.OrderID}
	return done, o.change(ctx, c.OrderID, func(order *domain.Order) error { return order.Confirm(o.Now()) })
}

// Reject handles the saga's [contracts.RejectOrder].
func (o *Orders) Reject(ctx context.Context, c contracts.RejectOrder) error {
	return o.change(ctx, c.OrderID, func(order *domain.Order) error { return order.Reject(c.Reason, o.Now()) })
}

// Cancel handles the saga's [contracts.CancelOrder].
func (o *Orders) Cancel(ctx context.Context, c contracts.CancelOrder) (contracts.OrderCancelled, error) {
	done := contracts.OrderCancelled{OrderID: c.OrderID}
	return done, o.change(ctx, c.OrderID, func(order *domain.Order) error { return order.Cancel(o.Now()) })
}

// change applies a move of the saga. An error means that saga and order disagree, which is for people to look at.
func (o *Orders) change(ctx context.Context, id string, move func(*domain.Order) error) error {
	order, err := o.Repository.Get(ctx, domain.OrderID(id))
	if err != nil {
		return err
	}
	if err := move(order); err != nil {
		return err
	}
	return o.save(ctx, order)
}

// save writes only what changed: a repeated command changes nothing.
func (o *Orders) save(ctx context.Context, order *domain.Order) error {
	if len(order.Recorded()) == 0 {
		return nil
	}
	return o.Repository.Save(ctx, order)
}

func receipt(order *domain.Order) Receipt {
	s := order.Snapshot()
	return Receipt{ID: string(s.ID), Status: string(s.Status), Total: int64(s.Total)}
}
