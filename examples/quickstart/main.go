// The quick start: a service that places orders, on a SQLite file and nothing else.
package main

import (
	"context"
	"crypto/rand"
	"log"
	"os"
	"os/signal"

	"github.com/glebarez/sqlite"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/aggregate"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/cqrs/host"
	"gorm.io/gorm"
)

type PlaceOrder struct {
	cqrs.Returns[string] // the order's ID
	SKU                  string
}
type (
	OrderPlaced struct{ ID, SKU string }
	Order       struct {
		aggregate.Root
		ID, SKU string
	}
)

var messages = cqrs.NewCatalog(
	cqrs.Event[OrderPlaced]{Name: "orders.placed", Key: func(e OrderPlaced) string { return e.ID }})

func register(svc *host.Service) {
	orders := gormstore.NewRepository[Order, string](svc.Sender)
	cqrs.Handle(svc.Processor, func(ctx context.Context, c PlaceOrder) (string, error) {
		order := &Order{ID: rand.Text(), SKU: c.SKU}
		order.Record(OrderPlaced{order.ID, order.SKU}) // leaves with the commit, or not at all
		return order.ID, orders.Save(ctx, order)
	})
	cqrs.On(svc.Processor, func(ctx context.Context, e OrderPlaced) error {
		log.Println("placed", e.ID)
		return nil
	})
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	db, err := gorm.Open(sqlite.Open("orders.db"), &gorm.Config{})
	check(err)
	svc, err := host.Open(ctx, "orders", db, messages, host.Config{})
	check(err)
	check(db.AutoMigrate(&Order{}))
	register(svc)
	_, err = cqrs.Execute(ctx, svc.Processor, PlaceOrder{SKU: "hat"})
	check(err)
	check(svc.Run(ctx)) // until Ctrl-C
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
