package cqrs_test

import (
	"context"
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
