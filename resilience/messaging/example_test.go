package messaging_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/surge-go/surge/resilience"
	"github.com/surge-go/surge/resilience/messaging"
)

// A consumer on a stock router that waits while its dependency is down.
func ExampleMiddleware() {
	bus := gochannel.NewGoChannel(gochannel.Config{}, watermill.NopLogger{})
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		panic(err)
	}
	mail := resilience.Must(resilience.New("mail", resilience.NewBreaker(resilience.BreakerConfig{
		Consecutive: 1, Cooldown: 50 * time.Millisecond,
	})))
	tries, done := 0, make(chan struct{})
	router.AddConsumerHandler("mailer", "orders", bus, func(msg *message.Message) error {
		if tries++; tries == 1 {
			fmt.Println("mail server is down")
			return errors.New("down")
		}
		fmt.Println("mailed", string(msg.Payload))
		close(done)
		return nil
	}).AddMiddleware(messaging.Middleware(mail))

	go func() { _ = router.Run(context.Background()) }()
	<-router.Running()
	_ = bus.Publish("orders", message.NewMessage(watermill.NewUUID(), message.Payload("order 1")))
	<-done
	_ = router.Close()
	// Output:
	// mail server is down
	// mailed order 1
}

func ExamplePublisher() {
	bus := gochannel.NewGoChannel(gochannel.Config{}, watermill.NopLogger{})
	p := resilience.Must(resilience.New("broker", resilience.RateLimit(1, 1)))
	publisher := messaging.Publisher(p, bus)
	for range 2 {
		err := publisher.Publish("orders", message.NewMessage(watermill.NewUUID(), nil))
		fmt.Println(resilience.OutcomeOf(err))
	}
	_ = publisher.Close()
	// Output:
	// ok
	// not executed
}
