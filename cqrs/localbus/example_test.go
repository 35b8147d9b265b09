package localbus_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs/localbus"
)

// Publish returns once every group has acked.
func Example() {
	bus := localbus.New(localbus.Config{})
	defer bus.Close()

	done := make(chan struct{})
	sub, _ := bus.Subscriber("shipping")
	orders, _ := sub.Subscribe(context.Background(), "orders")
	go func() {
		defer close(done)
		m := <-orders
		fmt.Printf("shipping got %s\n", m.Payload)
		m.Ack()
	}()

	placed := message.NewMessage("1", []byte("order 7"))
	placed.Metadata.Set("ce_partitionkey", "7")
	err := bus.Publisher().Publish("orders", placed)
	<-done
	fmt.Println("published:", err)
	// Output:
	// shipping got order 7
	// published: <nil>
}

// A topic that nobody reads is an error unless Config.Discard says otherwise.
func ExampleBus_Publisher() {
	bus := localbus.New(localbus.Config{})
	defer bus.Close()
	err := bus.Publisher().Publish("orders", message.NewMessage("1", nil), message.NewMessage("2", nil))

	var failed *localbus.PublishError
	if errors.As(err, &failed) {
		fmt.Println(failed.Failed(), errors.Is(err, localbus.ErrNoReader))
	}
	// Output: [0 1] true
}

// Services declare what they read before any of them publishes.
func ExampleBus_Declare() {
	bus := localbus.New(localbus.Config{})
	defer bus.Close()
	bus.Declare("inventory", "orders", "payments")
	fmt.Println(bus.Lag("inventory"))
	// Output: map[orders:0 payments:0]
}
