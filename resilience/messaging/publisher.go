package messaging

import (
	"context"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/resilience"
)

// Publisher publishes through p. A refusal by p is returned as it is: nothing was published then.
//
// The call runs under the context of the first message, since message.Publisher has none; to's own handling
// of time is what bounds a publish that hangs. A retry publishes all messages of the call again, so some may
// arrive twice: delivery is at least once, and consumers need to be idempotent. Close closes to.
func Publisher(p *resilience.Pipeline, to message.Publisher) message.Publisher {
	return &publisher{pipeline: p, to: to}
}

type publisher struct {
	pipeline *resilience.Pipeline
	to       message.Publisher
}

// Publish implements message.Publisher.
func (p *publisher) Publish(topic string, messages ...*message.Message) error {
	if len(messages) == 0 {
		return nil
	}
	return resilience.Run(messages[0].Context(), p.pipeline, func(context.Context) error {
		return p.to.Publish(topic, messages...)
	})
}

// Close implements message.Publisher.
func (p *publisher) Close() error { return p.to.Close() }
