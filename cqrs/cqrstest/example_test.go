package cqrstest_test

import (
	"context"
	"fmt"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/cqrstest"
)

func ExampleRecorder() {
	rec := cqrstest.NewRecorder(messages)
	s, err := cqrs.NewSender(messages, rec, cqrs.SenderConfig{})
	if err != nil {
		panic(err)
	}
	if err := s.Publish(context.Background(), Restocked{"hat", 3}, Reserved{"hat"}); err != nil {
		panic(err)
	}
	fmt.Println(cqrstest.SentOf[Reserved](rec), rec.Sent()[0].Topic)
	// Output: [{hat}] stock.events
}
