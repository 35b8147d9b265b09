package host

import (
	"context"

	"github.com/ThreeDotsLabs/watermill/message"
)

// mortal is a publisher whose calls end when the service is killed: on an in-process bus they would wait for the
// groups that were killed with it.
type mortal struct {
	message.Publisher
	killed <-chan struct{}
}

// Publish publishes with a context that ends with the service.
func (m mortal) Publish(topic string, msgs ...*message.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	old := msgs[0].Context()
	ctx, cancel := context.WithCancel(old)
	msgs[0].SetContext(ctx)
	published, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-m.killed:
			cancel()
		case <-published:
		}
	}()
	defer func() { // also when the publisher panics
		close(published)
		<-watched
		cancel()
		msgs[0].SetContext(old)
	}()
	return m.Publisher.Publish(topic, msgs...)
}
