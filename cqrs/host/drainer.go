package host

import (
	"context"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/cqrs/localbus"
)

// A drainer acks everything on its topics.
type drainer struct {
	bus    *localbus.Bus
	group  string
	topics []string
}

// Run drains until ctx ends.
func (d *drainer) Run(ctx context.Context) error {
	sub, err := d.bus.Subscriber(d.group)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for _, topic := range d.topics {
		ch, err := sub.Subscribe(ctx, topic)
		if err != nil {
			_ = sub.Close()
			wg.Wait()
			return err
		}
		wg.Go(func() { ackAll(ch) })
	}
	<-ctx.Done()
	err = sub.Close()
	wg.Wait()
	return err
}

func ackAll(ch <-chan *message.Message) {
	for m := range ch {
		m.Ack()
	}
}
