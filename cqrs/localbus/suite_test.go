package localbus_test

import (
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/surge-go/surge/cqrs/localbus"
)

// keeper plays the outbox: it keeps messages until the bus has taken them, topic by topic, in order.
// The universal suite publishes before it subscribes and closes publishers before messages are read.
type keeper struct {
	bus *localbus.Bus
	to  message.Publisher
	wg  sync.WaitGroup

	mu     sync.Mutex
	queues map[string]chan *message.Message
	closed bool
}

func newKeeper(t *testing.T, cfg localbus.Config) *keeper {
	bus := localbus.New(cfg)
	k := &keeper{bus: bus, to: bus.Publisher(), queues: make(map[string]chan *message.Message)}
	t.Cleanup(func() {
		k.mu.Lock()
		k.closed = true
		for _, q := range k.queues {
			close(q)
		}
		k.mu.Unlock()
		if err := bus.Close(); err != nil {
			t.Error(err)
		}
		k.wg.Wait()
	})
	return k
}

func (k *keeper) Publish(topic string, msgs ...*message.Message) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return localbus.ErrClosed
	}
	q := k.queues[topic]
	if q == nil {
		q = make(chan *message.Message, 20_000)
		k.queues[topic] = q
		k.wg.Go(func() { k.relay(topic, q) })
	}
	for _, m := range msgs {
		q <- m.Copy()
	}
	return nil
}

func (k *keeper) relay(topic string, q chan *message.Message) {
	for m := range q {
		batch := []*message.Message{m}
		for len(batch) < 100 && len(q) > 0 {
			if m, ok := <-q; ok {
				batch = append(batch, m)
			}
		}
		k.deliver(topic, batch)
	}
}

func (k *keeper) deliver(topic string, batch []*message.Message) {
	for k.to.Publish(topic, batch...) != nil {
		k.mu.Lock()
		closed := k.closed
		k.mu.Unlock()
		if closed {
			return
		}
	}
}

func (k *keeper) Close() error { return nil }

func (k *keeper) group(t *testing.T, group string) (message.Publisher, message.Subscriber) {
	sub, err := k.bus.Subscriber(group)
	if err != nil {
		t.Fatal(err)
	}
	return k, sub
}

func universal(t *testing.T, cfg localbus.Config, ordered, short bool) {
	k := newKeeper(t, cfg)
	// ConsumerGroups is off because that test reads with one group after the other, and here publishers
	// hand over only while all groups are there. The tests of this package cover groups.
	features := tests.Features{Persistent: true, GuaranteedOrder: ordered, ForceShort: short}
	tests.TestPubSub(t, features,
		func(t *testing.T) (message.Publisher, message.Subscriber) { return k.group(t, "test") }, k.group)
}

func TestWatermillSuite(t *testing.T) {
	t.Parallel()
	universal(t, localbus.Config{}, false, testing.Short())
}

// With a window of one on one partition the suite's strict order holds: the next message only after the ack.
func TestWatermillSuiteStrictOrder(t *testing.T) {
	t.Parallel()
	universal(t, localbus.Config{Window: 1, Partitions: 1}, true, true)
}
