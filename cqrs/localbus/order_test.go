package localbus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs/localbus"
)

// A consumer drops the messages whose contexts have ended. If a later one of the key still looked alive it would
// run first, and the dropped one after it when it is delivered again.
func TestContextsEndFromTheLastMessageToTheFirst(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(first *message.Message, leave, giveUp context.CancelFunc, bus *localbus.Bus){
		"subscription ends":  func(_ *message.Message, leave, _ context.CancelFunc, _ *localbus.Bus) { leave() },
		"publisher gives up": func(_ *message.Message, _, giveUp context.CancelFunc, _ *localbus.Bus) { giveUp() },
		"nack":               func(m *message.Message, _, _ context.CancelFunc, _ *localbus.Bus) { m.Nack() },
		"bus is closed":      func(_ *message.Message, _, _ context.CancelFunc, bus *localbus.Bus) { _ = bus.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 10 {
				bus := localbus.New(localbus.Config{Partitions: 1, Drain: -1})
				ctx, leave := context.WithCancel(t.Context())
				in := subscribe(ctx, t, bus)
				until, giveUp := context.WithCancel(t.Context())
				all := keyed("k", numbers(1000)...)
				all[0].SetContext(until)
				published := make(chan error, 1)
				go func() { published <- bus.Publisher().Publish("t", all...) }()
				got := make([]*message.Message, len(all))
				for i := range got {
					got[i] = <-in
				}
				go end(got[0], leave, giveUp, bus)
				watchEnd(t, got)
				giveUp()
				leave()
				<-published
				if err := bus.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func subscribe(ctx context.Context, t *testing.T, bus *localbus.Bus) <-chan *message.Message {
	t.Helper()
	sub, err := bus.Subscriber("g")
	if err != nil {
		t.Fatal(err)
	}
	in, err := sub.Subscribe(ctx, "t")
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func numbers(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint(i)
	}
	return all
}

// watchEnd looks at the contexts in order, as a consumer does, until all have ended.
func watchEnd(t *testing.T, got []*message.Message) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for dead := -1; dead != 0; {
		dead = -1
		for i, m := range got {
			switch over := m.Context().Err() != nil; {
			case over && dead < 0:
				dead = i
			case !over && dead >= 0:
				t.Fatalf("message %d looks alive although %d has ended", i, dead)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the contexts do not end; the first that has is %d", dead)
		}
	}
}

// The last ack may come just when the publisher gives up: then nothing is left to publish again, and nothing has failed.
func TestAPublishErrorNamesWhatHasFailed(t *testing.T) {
	t.Parallel()
	bus := localbus.New(localbus.Config{Partitions: 5000})
	in := subscribe(t.Context(), t, bus)
	for range 200 {
		until, giveUp := context.WithCancel(t.Context())
		m := message.NewMessage("1", nil)
		m.SetContext(until)
		published := make(chan error, 1)
		go func() { published <- bus.Publisher().Publish("t", m) }()
		got := <-in
		giveUp()
		got.Ack()
		var failed *localbus.PublishError
		if err := <-published; errors.As(err, &failed) && len(failed.Failed()) == 0 {
			t.Fatalf("Publish = %v", err)
		}
	}
	if err := bus.Close(); err != nil {
		t.Fatal(err)
	}
}
