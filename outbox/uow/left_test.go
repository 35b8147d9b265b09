package uow_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

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

// Whatever a goroutine that fn has left behind ends with, the neighbors' rows and messages stay as they are, and what a
// part that failed has written in it is undone.
func TestRule06_AGoroutineThatFnLeavesBehind(t *testing.T) {
	t.Parallel()
	type part = func(ctx context.Context, u *uow.UnitOfWork, inside func() error) error
	for name, inner := range map[string]part{
		"in a nested Do": func(ctx context.Context, u *uow.UnitOfWork, inside func() error) error {
			return u.Do(ctx, func(ctx context.Context) error { return errors.Join(insert(ctx, 1), inside()) })
		},
		"in a nested Do that wrote nothing": func(ctx context.Context, u *uow.UnitOfWork, inside func() error) error {
			return u.Do(ctx, func(context.Context) error { return inside() })
		},
		"in a transaction of GORM's": func(ctx context.Context, _ *uow.UnitOfWork, inside func() error) error {
			return uow.DB(ctx).Transaction(func(tx *gorm.DB) error {
				return errors.Join(tx.Exec(insertItem, 1).Error, inside())
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEach(t, func(t *testing.T, db *gorm.DB) {
				u := unit(t, db, one(uow.Config{}))
				for id, end := range map[int]error{2: nil, 3: errNo} {
					leftBehind(t, u, inner, id, end)
					if one, two := count(t, db, "id = 1"), count(t, db, "id = ?", id); two != 1 || end != nil && one != 0 {
						t.Errorf("fn ended with %v: %d rows from within it, %d of its neighbor", end, one, two)
					}
					exec(t, db, "DELETE FROM items")
				}
			})
		})
	}
}

// leftBehind runs a part that leaves inner behind and ends with end, and a neighbor that inserts id and lets inner fail.
func leftBehind(t *testing.T, u *uow.UnitOfWork, inner func(context.Context, *uow.UnitOfWork, func() error) error,
	id int, end error,
) {
	t.Helper()
	var left sync.WaitGroup
	var flushed []int
	goOn, flush := make(chan struct{}), func(_ context.Context, ids []int) error {
		flushed = append(flushed, ids...)
		return nil
	}
	letGo := sync.OnceFunc(func() { close(goOn) })
	errs := together(
		t, u,
		func(ctx context.Context) error {
			_ = uow.BeforeCommit(ctx, t, flush, 0)
			inside := make(chan struct{})
			left.Go(func() {
				_ = inner(context.WithoutCancel(ctx), u, func() error { close(inside); <-goOn; return errNo })
			})
			<-inside
			return end
		},
		func(ctx context.Context) error {
			err := errors.Join(insert(ctx, id), uow.BeforeCommit(ctx, t, flush, id))
			letGo()
			left.Wait()
			return err
		},
	)
	if errs[1] != nil || !slices.Contains(flushed, id) {
		t.Errorf("fn ended with %v: its neighbor with %v, and %v flushed", end, errs[1], flushed)
	}
}

// A part that leaves a nested Do or a statement behind has not succeeded: nobody could undo that any more.
func TestRule06_APartThatLeavesANestedDoBehindFails(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	u := unit(t, db, one(uow.Config{}))
	var left sync.WaitGroup
	goOn := make(chan struct{})
	err := u.Do(t.Context(), func(ctx context.Context) error {
		inside := make(chan struct{})
		left.Go(func() {
			err := u.Do(ctx, func(context.Context) error { close(inside); <-goOn; return nil })
			if !errors.Is(err, uow.ErrNoTransaction) {
				t.Errorf("the one who was left behind was told %v", err)
			}
		})
		<-inside
		return insert(ctx, 1)
	})
	close(goOn)
	left.Wait()
	if err == nil || count(t, db, "1 = 1") != 0 {
		t.Errorf("%v, %d rows", err, count(t, db, "1 = 1"))
	}
}

// Rows that a part has left open, and a statement that waits for a lock, end with their transaction also where their
// context never ends; nobody waits for them.
func TestRule06_WhatHasNoEndEndsWithItsTransaction(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, one(uow.Config{PartTimeout: time.Second}))
		exec(t, db, "INSERT INTO items (id) VALUES (1), (2)")
		done := make(chan error, 1)
		go func() {
			done <- u.Do(context.Background(), func(ctx context.Context) error {
				rows, err := uow.DB(context.WithoutCancel(ctx)).Raw("SELECT id FROM items").Rows()
				if err == nil && !rows.Next() {
					err = rows.Err()
				}
				return err
			})
		}()
		select {
		case <-done: // with an error or without
		case <-time.After(20 * time.Second):
			t.Fatal("Do does not return: rows are open")
		}
		if db.Name() != "sqlite" {
			lock := db.Begin()
			exec(t, lock, "UPDATE items SET n = 1 WHERE id = 1")
			defer lock.Rollback()
		}
		go func() {
			_ = u.Do(context.Background(), func(ctx context.Context) error {
				close(done)
				return uow.DB(context.WithoutCancel(ctx)).Exec("UPDATE items SET n = 2 WHERE id = 1").Error
			})
		}()
		<-done
		next := make(chan error, 1)
		go func() { next <- u.Do(context.Background(), func(ctx context.Context) error { return insert(ctx, 3) }) }()
		select {
		case err := <-next:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the neighbor does not return: a statement waits")
		}
	})
}
