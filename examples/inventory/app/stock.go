package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/aggregate"
	"github.com/surge-go/surge/cqrs/query"
	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/examples/inventory/domain"
)

// Codes of this service's rejections, beside [contracts.SoldOut].
const (
	Invalid    = "invalid"     // the command makes no sense
	WrongState = "wrong_state" // the reservation was given up
)

// Stock handles the commands about stock. Both fields are required.
type Stock struct {
	Shelf        domain.Shelf
	Reservations domain.Reservations
}

// Reserve handles [contracts.ReserveStock]. The same command again finds the order's units taken, whatever is left for
// others; once they were given up it is refused. Being sold out is an answer and not a failure, and as nothing was
// written by then it costs its neighbors in the transaction nothing.
func (s *Stock) Reserve(ctx context.Context, c contracts.ReserveStock) (contracts.StockReserved, error) {
	done := contracts.StockReserved{OrderID: c.OrderID}
	lines := linesOf(c)
	r, err := domain.Reserve(domain.OrderID(c.OrderID), lines)
	if err != nil {
		return done, cqrs.Reject(Invalid, err)
	}
	switch was, err := s.Reservations.Get(ctx, r.OrderID()); {
	case errors.Is(err, aggregate.ErrNotFound):
	case err != nil:
		return done, err
	case was.Status() == domain.Released:
		return done, cqrs.Reject(WrongState, fmt.Errorf("the reservation of %s was given up", c.OrderID))
	default:
		return done, nil
	}
	free, err := s.Shelf.Free(ctx, lines)
	if err != nil {
		return done, err
	}
	if err := domain.Short(lines, free); err != nil {
		return done, cqrs.Reject(contracts.SoldOut, err)
	}
	if err := s.Reservations.Save(ctx, r); err != nil {
		return done, err
	}
	return done, s.Shelf.Take(ctx, lines)
}

// Release handles [contracts.ReleaseStock].
func (s *Stock) Release(ctx context.Context, c contracts.ReleaseStock) error {
	return s.giveBack(ctx, c.OrderID)
}

// Return handles [contracts.ReturnStock].
func (s *Stock) Return(ctx context.Context, c contracts.ReturnStock) (contracts.StockReleased, error) {
	return contracts.StockReleased{OrderID: c.OrderID}, s.giveBack(ctx, c.OrderID)
}

func (s *Stock) giveBack(ctx context.Context, id string) error {
	r, err := s.Reservations.Get(ctx, domain.OrderID(id))
	if errors.Is(err, aggregate.ErrNotFound) {
		return nil // nothing was taken
	}
	if err != nil {
		return err
	}
	back := r.Release()
	if len(back) == 0 {
		return nil
	}
	if err := s.Reservations.Save(ctx, r); err != nil {
		return err
	}
	return s.Shelf.Return(ctx, back)
}

// Commit handles [contracts.CommitStock]. It stands behind the saga's point of no return and refuses nothing.
func (s *Stock) Commit(ctx context.Context, c contracts.CommitStock) (contracts.StockCommitted, error) {
	done := contracts.StockCommitted{OrderID: c.OrderID}
	r, err := s.Reservations.Get(ctx, domain.OrderID(c.OrderID))
	if err != nil {
		return done, err
	}
	if err := r.Commit(); err != nil {
		return done, err
	}
	if len(r.Recorded()) == 0 {
		return done, nil
	}
	return done, s.Reservations.Save(ctx, r)
}

// Locks names the products whose rows a reservation changes: orders of the same product meet there, whatever
// their keys.
func Locks(c contracts.ReserveStock) []string {
	names := make([]string, len(c.Lines))
	for i, l := range c.Lines {
		names[i] = l.SKU
	}
	return names
}

func linesOf(c contracts.ReserveStock) []domain.Line {
	lines := make([]domain.Line, len(c.Lines))
	for i, l := range c.Lines {
		lines[i] = domain.Line{SKU: domain.SKU(l.SKU), Quantity: l.Quantity}
	}
	return lines
}

// ListProducts asks for the catalog with what is free, sorted by SKU.
type ListProducts struct {
	query.Returns[[]ProductView]
}

// GetProduct asks for one product; aggregate.ErrNotFound if there is none.
type GetProduct struct {
	query.Returns[ProductView]

	SKU string
}

// ProductView is a product as customers see it.
type ProductView struct {
	SKU  string `json:"sku"`
	Free int    `json:"free"`
}

// SetStock makes a product, or changes how many units of it there are by the difference to what it had.
type SetStock struct {
	cqrs.Returns[ProductView]

	SKU   string
	Units int
}
