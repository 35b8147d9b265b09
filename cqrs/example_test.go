package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/surge-go/surge/cqrs"
)

type PlaceOrder struct {
	cqrs.Returns[Receipt]
	Order, SKU string
}

type Receipt struct{ Order string }

type OrderPlaced struct{ Order, SKU string }

var shop = cqrs.NewCatalog(
	cqrs.Command[PlaceOrder]{Name: "orders.place", Key: func(c PlaceOrder) string { return c.Order }},
	cqrs.Event[OrderPlaced]{Name: "orders.placed", Key: func(e OrderPlaced) string { return e.Order }},
)

// newShop is a processor over Watermill's own Pub/Sub, without a database.
func newShop() (*cqrs.Processor, *cqrs.Sender) {
	bus := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
	s, err := cqrs.NewSender(shop, bus, cqrs.SenderConfig{Source: "orders"})
	check(err)
	p, err := cqrs.NewProcessor("orders", s, cqrs.ProcessorConfig{
		Subscribe: func(string) (message.Subscriber, error) { return bus, nil },
	})
	check(err)
	return p, s
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// start runs p until stop is called.
func start(p *cqrs.Processor) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	<-p.Running()
	return func() {
		cancel()
		check(<-done)
	}
}

func placeOne(_ context.Context, c PlaceOrder) (Receipt, error) {
	if c.SKU == "hat" {
		return Receipt{}, cqrs.Reject("sold_out", errors.New("no hats left"))
	}
	return Receipt{c.Order}, nil
}

func ExampleExecute() {
	p, _ := newShop()
	cqrs.Handle(p, placeOne)

	receipt, err := cqrs.Execute(context.Background(), p, PlaceOrder{Order: "o-1", SKU: "sock"})
	fmt.Println(receipt, err)

	_, err = cqrs.Execute(context.Background(), p, PlaceOrder{Order: "o-2", SKU: "hat"})
	if no := cqrs.AsRejection(err); no != nil {
		fmt.Println("refused:", no.Code)
	}
	// Output:
	// {o-1} <nil>
	// refused: sold_out
}

// A handler publishes what happened; another one, here or in any other service, hears of it.
func ExampleOn() {
	p, s := newShop()
	heard := make(chan string)
	cqrs.Handle(p, func(ctx context.Context, c PlaceOrder) (Receipt, error) {
		return Receipt{c.Order}, s.Publish(ctx, OrderPlaced{c.Order, c.SKU})
	})
	cqrs.On(p, func(ctx context.Context, e OrderPlaced) error {
		env, _ := cqrs.EnvelopeOf(ctx)
		heard <- fmt.Sprintf("%s: %s of order %s", env.Type, e.SKU, e.Order)
		return nil
	})
	defer start(p)()

	check(s.Send(context.Background(), PlaceOrder{Order: "o-1", SKU: "sock"}))
	fmt.Println(<-heard)
	// Output: orders.placed: sock of order o-1
}

// The same handler answers another service, which waits for its result.
func ExampleCall() {
	p, _ := newShop()
	cqrs.Handle(p, placeOne)
	defer start(p)()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	receipt, err := cqrs.Call(ctx, p, PlaceOrder{Order: "o-1", SKU: "sock"})
	fmt.Println(receipt, err)

	_, err = cqrs.Call(ctx, p, PlaceOrder{Order: "o-2", SKU: "hat"})
	fmt.Println(err)
	// Output:
	// {o-1} <nil>
	// sold_out: no hats left
}

// A batch handler sees all commands of a transaction and answers each.
func ExampleHandleBatch() {
	p, _ := newShop()
	cqrs.HandleBatch(p, func(_ context.Context, items []*cqrs.Item[PlaceOrder, Receipt]) error {
		for _, it := range items {
			if it.Message.SKU == "hat" {
				it.Fail(cqrs.Reject("sold_out", nil))
				continue
			}
			it.Reply(Receipt{it.Message.Order})
		}
		return nil
	})
	fmt.Println(cqrs.Execute(context.Background(), p, PlaceOrder{Order: "o-1", SKU: "sock"}))
	fmt.Println(cqrs.Execute(context.Background(), p, PlaceOrder{Order: "o-2", SKU: "hat"}))
	// Output:
	// {o-1} <nil>
	// {} sold_out
}

// printer is a publisher that shows what it gets.
type printer struct{}

func (printer) Publish(topic string, ms ...*message.Message) error {
	for _, m := range ms {
		env := cqrs.EnvelopeFrom(m)
		fmt.Printf("%s: %s of key %s: %s\n", topic, env.Type, env.Key, m.Payload)
	}
	return nil
}
func (printer) Close() error { return nil }

func ExampleSender_Send() {
	s, err := cqrs.NewSender(shop, printer{}, cqrs.SenderConfig{Source: "web"})
	check(err)
	check(s.Send(context.Background(), PlaceOrder{Order: "o-1", SKU: "sock"}))
	check(s.Send(context.Background(), PlaceOrder{Order: "o-2", SKU: "hat"}, cqrs.After(time.Hour)))
	// Output:
	// orders.commands: orders.place of key o-1: {"Order":"o-1","SKU":"sock"}
	// orders.commands: orders.place of key o-2: {"Order":"o-2","SKU":"hat"}
}

func ExampleSender_Publish() {
	s, err := cqrs.NewSender(shop, printer{}, cqrs.SenderConfig{Source: "orders"})
	check(err)
	check(s.Publish(context.Background(), OrderPlaced{"o-1", "sock"}, OrderPlaced{"o-2", "hat"}))
	// Output:
	// orders.events: orders.placed of key o-1: {"Order":"o-1","SKU":"sock"}
	// orders.events: orders.placed of key o-2: {"Order":"o-2","SKU":"hat"}
}

// Version 1 of an event had a price in text.
func ExampleUpcast() {
	type v1 struct{ Price string }
	type Priced struct{ Cents int }
	c := cqrs.NewCatalog(
		cqrs.Event[Priced]{Name: "catalog.priced", Version: 2},
		cqrs.Upcast("catalog.priced", 1, func(old v1) (Priced, error) {
			var p Priced
			_, err := fmt.Sscan(old.Price, &p.Cents)
			return p, err
		}),
	)
	v, err := c.Decode(&cqrs.Delivery{
		Envelope: cqrs.Envelope{Type: "catalog.priced", Version: 1}, Payload: []byte(`{"Price":"250"}`),
	})
	fmt.Printf("%+v %v\n", v, err)
	// Output: {Cents:250} <nil>
}
