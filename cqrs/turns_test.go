package cqrs_test

import (
	"context"
	"runtime"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

type nowhere struct{}

func (nowhere) Publish(string, ...*message.Message) error { return nil }
func (nowhere) Close() error                              { return nil }

// Events of two topics that take turns cost what they cost one by one.
func TestPublishOfTopicsThatTakeTurnsIsLinear(t *testing.T) {
	c := cqrs.NewCatalog(
		cqrs.Event[placed]{Name: "a.placed", Topic: "a", Key: func(e placed) string { return e.Order }},
		cqrs.Event[shipped]{Name: "b.shipped", Topic: "b", Key: func(e shipped) string { return e.Order }},
	)
	s, err := cqrs.NewSender(c, nowhere{}, cqrs.SenderConfig{})
	if err != nil {
		t.Fatal(err)
	}
	cost := func(n int) float64 {
		events := make([]any, n)
		for i := range events {
			if events[i] = any(placed{"x"}); i%2 == 1 {
				events[i] = shipped{"x"}
			}
		}
		var a, b runtime.MemStats
		runtime.ReadMemStats(&a)
		if err := s.Publish(context.Background(), events...); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&b)
		return float64(b.TotalAlloc-a.TotalAlloc) / float64(n)
	}
	cost(100)
	small, big := cost(100), cost(10_000)
	t.Logf("%.0f and %.0f bytes an event", small, big)
	if big > 2*small {
		t.Errorf("an event costs %.0f bytes among 100 and %.0f among 10000", small, big)
	}
}
