package unit

import (
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs/localbus"
)

// cable joins a unit to the bus. It embeds the bus, so that hosts see one.
type cable struct {
	*localbus.Bus
	cut  chan struct{} // closed: what is sent does not arrive
	once sync.Once
}

func newCable(bus *localbus.Bus) *cable { return &cable{Bus: bus, cut: make(chan struct{})} }

// Publisher implements host.Transport.
func (c *cable) Publisher() message.Publisher { return end{c.Bus.Publisher(), c.cut} }

// end is where a publisher holds the cable.
type end struct {
	message.Publisher
	cut <-chan struct{}
}

// Publish implements message.Publisher. Once the cable is cut it waits for as long as the caller does, as for a broker
// that does not answer.
func (e end) Publish(topic string, msgs ...*message.Message) error {
	select {
	case <-e.cut:
		if len(msgs) == 0 {
			return nil
		}
		ctx := msgs[0].Context()
		<-ctx.Done()
		return ctx.Err()
	default:
		return e.Publisher.Publish(topic, msgs...)
	}
}

// Cut keeps what the unit publishes from the bus, for good: what precedes many a crash. What it commits meanwhile has
// not been sent when the crash comes.
func (u *Unit) Cut() { u.cable.once.Do(func() { close(u.cable.cut) }) }
