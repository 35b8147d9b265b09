package uow_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/glebarez/sqlite"
	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
)

type Account struct {
	ID      string `gorm:"primaryKey"`
	Balance int
}

func accounts() (db *gorm.DB, work *uow.UnitOfWork, closeDB func()) {
	db, err := gorm.Open(sqlite.Open(":memory:"), quiet)
	if err != nil {
		panic(err)
	}
	pool, err := db.DB()
	if err != nil {
		panic(err)
	}
	if work, err = uow.New(db, uow.Config{}); err != nil {
		panic(err)
	}
	if err := db.AutoMigrate(&Account{}); err != nil {
		panic(err)
	}
	db.Create([]Account{{"ann", 10}, {"bob", 0}})
	return db, work, func() { _ = pool.Close() }
}

func ExampleUnitOfWork_Do() {
	db, work, closeDB := accounts()
	defer closeDB()
	move := func(amount int) error {
		return work.Do(context.Background(), func(ctx context.Context) error {
			add := "UPDATE accounts SET balance = balance + ? WHERE id = ?"
			if err := uow.DB(ctx).Exec(add, amount, "bob").Error; err != nil {
				return err
			}
			if err := uow.DB(ctx).Exec(add, -amount, "ann").Error; err != nil {
				return err
			}
			var ann Account
			if err := uow.DB(ctx).First(&ann, "id = ?", "ann").Error; err != nil {
				return err
			}
			if ann.Balance < 0 {
				return errors.New("ann has not enough")
			}
			return nil
		})
	}
	fmt.Println(move(7), move(7))
	var all []Account
	db.Order("id").Find(&all)
	fmt.Println(all)
	// Output:
	// <nil> ann has not enough
	// [{ann 3} {bob 7}]
}

func ExampleBeforeCommit() {
	_, work, closeDB := accounts()
	defer closeDB()
	audit := func(_ context.Context, lines []string) error {
		fmt.Println("one statement for", lines)
		return nil
	}
	err := work.Do(context.Background(), func(ctx context.Context) error {
		for _, who := range []string{"ann", "bob"} {
			err := work.Do(ctx, func(ctx context.Context) error {
				if err := uow.BeforeCommit(ctx, "audit", audit, who); err != nil {
					return err
				}
				if who == "bob" {
					return errors.New("bob refuses") // and leaves nothing behind
				}
				return nil
			})
			fmt.Println(who, err)
		}
		return uow.AfterCommit(ctx, func() { fmt.Println("committed") })
	})
	fmt.Println(err)
	// Output:
	// ann <nil>
	// bob bob refuses
	// one statement for [ann]
	// committed
	// <nil>
}

// On PostgreSQL with a [uow.Config.Pipeline] the two statements leave together, and with those of other callers.
func ExampleQueue() {
	db, work, closeDB := accounts()
	defer closeDB()
	errNotEnough := errors.New("not enough")
	move := func(amount int) error {
		return work.Do(context.Background(), func(ctx context.Context) error {
			err := uow.QueueOne(ctx, errNotEnough,
				"UPDATE accounts SET balance = balance - ? WHERE id = ? AND balance >= ?", amount, "ann", amount)
			if err != nil {
				return err
			}
			return uow.Queue(ctx, "UPDATE accounts SET balance = balance + ? WHERE id = ?", amount, "bob")
		})
	}
	fmt.Println(move(7), move(7))
	var all []Account
	db.Order("id").Find(&all)
	fmt.Println(all)
	// Output:
	// <nil> not enough
	// [{ann 3} {bob 7}]
}
