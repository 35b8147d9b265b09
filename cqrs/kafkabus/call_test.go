package kafkabus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/kafkabus"
)

type greet struct {
	cqrs.Returns[string]
	Name string
}

// Call creates the topic of its replies, where the brokers do not create what is asked for.
func TestCallCreatesItsTopic(t *testing.T) {
	t.Parallel()
	bus := open(t, fake(t).ListenAddrs(), quickConfig())
	pub := bus.Publisher()
	defer closed(t, pub)
	sender, errSender := cqrs.NewSender(cqrs.NewCatalog(cqrs.Command[greet]{Name: "desk.greet"}), pub, cqrs.SenderConfig{})
	desk, errDesk := cqrs.NewProcessor("desk", sender, cqrs.ProcessorConfig{Subscribe: bus.Subscriber, Instance: "one"})
	errTopic := bus.CreateTopics(t.Context(), kafkabus.Topic{Name: "desk.commands", Partitions: 1})
	if err := errors.Join(errSender, errDesk, errTopic); err != nil {
		t.Fatal(err)
	}
	cqrs.Handle(desk, func(_ context.Context, c greet) (string, error) { return "hello " + c.Name, nil })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- desk.Run(run) }()
	<-desk.Running()
	if got, err := cqrs.Call(ctx, desk, greet{Name: "ann"}); got != "hello ann" || err != nil {
		t.Errorf("Call = %q, %v", got, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
