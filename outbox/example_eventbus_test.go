package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
)

type orderPlaced struct {
	OrderID string
}

// Watermill's own EventBus over an Outbox commits and rolls back with the unit of work whose context it is given.
func Example_eventBus() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	db, unit, err := openExample(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer closeExample(db)
	box, err := outbox.New(db, outbox.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	bus, err := cqrs.NewEventBusWithConfig(box, cqrs.EventBusConfig{
		GeneratePublishTopic: func(cqrs.GenerateEventPublishTopicParams) (string, error) { return "orders", nil },
		Marshaler:            cqrs.JSONMarshaler{},
		OnPublish: func(p cqrs.OnEventSendParams) error {
			if e, ok := p.Event.(*orderPlaced); ok {
				p.Message.Metadata.Set(outbox.HeaderKey, e.OrderID) // events of one order keep their order
			}
			return nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = unit.Do(ctx, func(ctx context.Context) error {
		return bus.Publish(ctx, &orderPlaced{OrderID: "a"})
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = bus.Publish(ctx, &orderPlaced{OrderID: "b"}) // not in a unit of work
	fmt.Println("refused:", errors.Is(err, uow.ErrNoTransaction))

	relay, err := outbox.NewRelay(box, printer{}, outbox.RelayConfig{UnitOfWork: unit})
	if err != nil {
		fmt.Println(err)
		return
	}
	var running sync.WaitGroup
	running.Go(func() { _ = relay.Run(ctx) })
	if err := relay.Drain(ctx); err != nil {
		fmt.Println(err)
	}
	cancel()
	running.Wait()
	// Output:
	// refused: true
	// orders: {"OrderID":"a"}
}
