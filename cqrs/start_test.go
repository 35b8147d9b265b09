package cqrs_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/cqrstest"
)

// Whoever asks a processor while its Run starts sees it whole, or not yet. The race detector is the judge.
func TestLagMayBeAskedWhileRunStarts(t *testing.T) {
	t.Parallel()
	sender, err := cqrs.NewSender(catalog(), &cqrstest.Recorder{}, cqrs.SenderConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		p, err := cqrs.NewProcessor("shop", sender, cqrs.ProcessorConfig{
			Subscribe: func(string) (message.Subscriber, error) {
				return gochannel.NewGoChannel(gochannel.Config{}, watermill.NopLogger{}), nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		cqrs.On(p, func(context.Context, note) error { return nil })
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		for started := false; !started; {
			if _, err := p.Lag(ctx); err != nil {
				t.Error(err)
			}
			select {
			case <-p.Running():
				started = true
			default:
			}
		}
		stop()
		wg.Wait()
	}
}

// Subscribe may ask the processor for its topics, to declare them to a bus.
func TestSubscribeMayAskForTopics(t *testing.T) {
	t.Parallel()
	b := newDB()
	cfg := b.config()
	var p *cqrs.Processor
	var topics []string
	cfg.Subscribe = func(group string) (message.Subscriber, error) {
		topics = p.Topics()
		return b.subscriber(group)
	}
	sender, err := cqrs.NewSender(catalog(), b, cqrs.SenderConfig{})
	must(t, err)
	p, err = cqrs.NewProcessor("shop", sender, cfg)
	must(t, err)
	cqrs.On(p, func(context.Context, note) error { return nil })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	<-p.Running()
	cancel()
	if err := <-ended; err != nil || len(topics) != 1 {
		t.Errorf("topics %v, %v", topics, err)
	}
}

// A group that no store could hold is refused, by its limit.
func TestLongGroupIsRefused(t *testing.T) {
	t.Parallel()
	sender, err := cqrs.NewSender(catalog(), newDB(), cqrs.SenderConfig{})
	must(t, err)
	if _, err := cqrs.NewProcessor(strings.Repeat("g", 121), sender, cqrs.ProcessorConfig{}); err == nil || !strings.Contains(err.Error(), "at most 120 bytes") {
		t.Error(err)
	}
}
