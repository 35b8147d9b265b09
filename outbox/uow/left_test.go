package uow_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"sync"
	"testing"

	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
)

// Whoever gives up a nested part returns from it while its goroutine is still inside, perhaps in a part of its own.
// Whatever that does later must not get into the transaction, which goes on.
func TestRule06_WhatIsInsideAPartThatWasGivenUpDoesNothingMore(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, one(uow.Config{}))
		owner, gaveUp := new(int), errors.New("given up")
		inside, goOn, late := make(chan struct{}), make(chan struct{}), make(chan error, 2)
		err := u.Do(t.Context(), func(ctx context.Context) error {
			err := u.Do(ctx, func(ctx context.Context) error {
				go func() {
					_ = u.Do(ctx, func(ctx context.Context) error {
						close(inside)
						<-goOn
						late <- insert(context.WithoutCancel(ctx), 1)
						late <- uow.BeforeCommit(ctx, owner, func(ctx context.Context, ids []int) error {
							return insert(ctx, ids[0])
						}, 2)
						return nil
					})
				}()
				<-inside
				return gaveUp
			})
			if !errors.Is(err, gaveUp) {
				return err
			}
			close(goOn)
			for range 2 {
				if err := <-late; !errors.Is(err, uow.ErrNoTransaction) {
					t.Errorf("a part that was given up did something: %v", err)
				}
			}
			return insert(ctx, 3)
		})
		if got := count(t, db, "1 = 1"); err != nil || got != 1 {
			t.Errorf("%v, %d rows", err, got)
		}
	})
}

// A statement of a part that was given up is under way: nobody knows when it is done, so the transaction cannot go on
// as if the part had written nothing.
func TestRule06_AStatementUnderWayInAPartThatWasGivenUp(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, one(uow.Config{}))
		gaveUp, runs := errors.New("given up"), 0
		arg := &blocking{under: make(chan struct{}), goOn: make(chan struct{})}
		ended := make(chan struct{})
		err := u.Do(t.Context(), func(ctx context.Context) error {
			runs++
			err := u.Do(ctx, func(ctx context.Context) error {
				if runs > 1 {
					return gaveUp
				}
				go func() {
					defer close(ended)
					_ = uow.DB(context.WithoutCancel(ctx)).Exec("INSERT INTO items (id) VALUES (?)", arg).Error
				}()
				<-arg.under
				return gaveUp
			})
			if runs == 1 {
				close(arg.goOn)
				<-ended
			}
			if !errors.Is(err, gaveUp) {
				return err
			}
			return insert(ctx, 3)
		})
		if one, all := count(t, db, "id = 1"), count(t, db, "1 = 1"); err != nil || one != 0 || all != 1 {
			t.Errorf("%v, %d rows of the part that was given up, %d rows, %d runs", err, one, all, runs)
		}
	})
}

// blocking is the argument 1 of a statement that is under way until it may go on.
type blocking struct {
	under, goOn chan struct{}
	once        sync.Once
}

func (b *blocking) Value() (driver.Value, error) {
	b.once.Do(func() { close(b.under) })
	<-b.goOn
	return int64(1), nil
}
