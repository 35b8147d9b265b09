package cqrs_test

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/surge-go/surge/cqrs"
)

// A project that has a Router keeps it, with its subscribers; handlers are the processor's.
func ExampleProcessor_NoPublishHandler() {
	type rename struct{ Name string }
	catalog := cqrs.NewCatalog(cqrs.Command[rename]{Name: "users.rename"})
	bus := gochannel.NewGoChannel(gochannel.Config{}, watermill.NopLogger{})
	sender, err := cqrs.NewSender(catalog, bus, cqrs.SenderConfig{})
	if err != nil {
		panic(err)
	}
	p, err := cqrs.NewProcessor("users", sender, cqrs.ProcessorConfig{})
	if err != nil {
		panic(err)
	}
	handled := make(chan string)
	cqrs.On(p, func(_ context.Context, c rename) error { handled <- c.Name; return nil })

	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		panic(err)
	}
	router.AddConsumerHandler("users", "users.commands", bus, p.NoPublishHandler("users.commands"))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- p.Run(ctx) }()
	<-p.Running()
	go func() { ended <- router.Run(ctx) }()
	<-router.Running()

	if err := sender.Send(ctx, rename{"Ann"}); err != nil {
		panic(err)
	}
	fmt.Println(<-handled)
	cancel()
	fmt.Println(<-ended, <-ended, bus.Close())
	// Output:
	// Ann
	// <nil> <nil> <nil>
}
