package gormstore_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/glebarez/sqlite"
	"github.com/surge-go/surge/cqrs/aggregate"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

type Account struct {
	aggregate.Root
	ID      string
	Balance int
}

type Deposited struct{ Account, Amount any }

func (a *Account) Deposit(amount int) {
	a.Balance += amount
	a.Record(Deposited{a.ID, amount})
}

// printer stands for a cqrs.Sender over an outbox.
type printer struct{}

func (printer) Publish(_ context.Context, events ...any) error {
	fmt.Printf("published %+v\n", events)
	return nil
}

// A repository loads and saves whole aggregates in the transaction of the context.
func ExampleRepository() {
	db, err := gorm.Open(sqlite.Open(":memory:"), &gorm.Config{})
	if err != nil {
		panic(err)
	}
	work, err := uow.New(db, uow.Config{})
	if err != nil {
		panic(err)
	}
	if err := db.AutoMigrate(&Account{}); err != nil {
		panic(err)
	}
	accounts := gormstore.NewRepository[Account, string](printer{})
	ctx := context.Background()
	err = work.Do(ctx, func(ctx context.Context) error {
		a := &Account{ID: "ada"}
		a.Deposit(10)
		return accounts.Save(ctx, a)
	})
	fmt.Println(err)
	err = work.Do(ctx, func(ctx context.Context) error {
		a, err := accounts.Get(ctx, "ada")
		if err != nil {
			return err
		}
		fmt.Println(a.Balance, "at version", a.Version)
		_, err = accounts.Get(ctx, "bob")
		return err
	})
	fmt.Println(errors.Is(err, aggregate.ErrNotFound))
	pool, _ := db.DB()
	_ = pool.Close()
	// Output:
	// published [{Account:ada Amount:10}]
	// <nil>
	// 10 at version 1
	// true
}
