package kafkabus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/cqrs/kafkabus"
	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox/uow"
)

// ledger collects what a processor handles.
type ledger struct {
	mu   sync.Mutex
	seen map[int][]int // n by key
	ids  map[string]int
}

func (l *ledger) add(env cqrs.Envelope, c tick) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[c.Key] = append(l.seen[c.Key], c.N)
	l.ids[env.ID]++
}

func (l *ledger) count() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ns := range l.seen {
		n += len(ns)
	}
	return n
}

// process runs a processor over any subscriber until the test ends.
func process(t *testing.T, topic string, cfg cqrs.ProcessorConfig) (*cqrs.Processor, *ledger) {
	t.Helper()
	sender, err := cqrs.NewSender(ticks(topic), nobody{}, cqrs.SenderConfig{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := cqrs.NewProcessor(watermill.NewShortUUID(), sender, cfg)
	if err != nil {
		t.Fatal(err)
	}
	l := &ledger{seen: map[int][]int{}, ids: map[string]int{}}
	cqrs.Handle(p, func(ctx context.Context, c tick) (struct{}, error) {
		env, _ := cqrs.EnvelopeOf(ctx)
		l.add(env, c)
		return struct{}{}, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	return p, l
}

// nobody is a publisher for processors that send nothing.
type nobody struct{}

func (nobody) Publish(string, ...*message.Message) error { return errors.New("nothing is to be sent") }
func (nobody) Close() error                              { return nil }

// Programs with stock watermill-kafka, with its marshaler or ours, stand on either side of ours, and under the
// processor.
func TestEveryPublisherReachesEverySubscriber(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		bus := open(t, brokers, quickConfig())
		stockPublisher := func(m kafka.Marshaler) message.Publisher {
			pub, err := kafka.NewPublisher(kafka.PublisherConfig{Brokers: brokers, Marshaler: m}, nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { closed(t, pub) })
			return pub
		}
		stockSubscriber := func(u kafka.Unmarshaler) func(string) (message.Subscriber, error) {
			return func(group string) (message.Subscriber, error) {
				return kafka.NewSubscriber(kafka.SubscriberConfig{
					Brokers: brokers, ConsumerGroup: group, Unmarshaler: u, OverwriteSaramaConfig: quick(),
				}, nil)
			}
		}
		publishers := map[string]message.Publisher{
			"ours": bus.Publisher(), "stock": stockPublisher(kafka.DefaultMarshaler{}),
			"stock with our marshaler": stockPublisher(kafkabus.Marshaler{}),
		}
		subscribers := map[string]func(string) (message.Subscriber, error){
			"ours": bus.Subscriber, "stock": stockSubscriber(kafka.DefaultMarshaler{}),
			"stock with our marshaler": stockSubscriber(kafkabus.Marshaler{}),
		}
		for from, pub := range publishers {
			// A stock record has no key, so that only a single partition keeps its order.
			name := topic(t, bus, 1)
			for n := range 10 {
				for key := range 4 {
					if err := pub.Publish(name, tickMessage(key, n)); err != nil {
						t.Fatal(err)
					}
				}
			}
			for to, subscribe := range subscribers {
				_, l := process(t, name, cqrs.ProcessorConfig{Subscribe: subscribe})
				eventually(t, fmt.Sprintf("all is handled from %s to %s", from, to), func() bool { return l.count() >= 40 })
				wantTicks(t, l, from+" to "+to)
			}
		}
	})
}

func wantTicks(t *testing.T, l *ledger, what string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, ns := range l.seen {
		if !slices.IsSorted(ns) || len(ns) != 10 {
			t.Errorf("%s: key %d was handled as %v", what, key, ns)
		}
	}
	for n := range 10 {
		for key := range 4 {
			if id := tickMessage(key, n).UUID; l.ids[id] != 1 {
				t.Errorf("%s: %s was handled %d times", what, id, l.ids[id])
			}
		}
	}
}

func TestUndecodableRecordsBecomeDeadLetters(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		bus := open(t, brokers, quickConfig())
		name := topic(t, bus, 1)
		bad := tickMessage(1, 0)
		bad.Metadata["headers"] = "{" // as if Debezium's connector was set up wrongly
		publish(t, bus, name, bad, tickMessage(1, 1))

		s := newStore(t, sqliteDB, "INTEGER PRIMARY KEY AUTOINCREMENT")
		dead, err := gormstore.NewDeadLetters(s.one, gormstore.DeadLettersConfig{})
		if err != nil {
			t.Fatal(err)
		}
		p, l := process(t, name, cqrs.ProcessorConfig{
			Subscribe: bus.Subscriber, UnitOfWork: s.one, InTransaction: uow.In, DeadLetters: dead,
			Inbox: idempotency.NewInbox(idempotency.InboxConfig{}), Parking: gormstore.NewParking(),
		})
		eventually(t, "the bad record is dead", func() bool { return p.Stats().Dead == 1 })
		found := s.query("SELECT count(*) FROM cqrs_dead WHERE type = 'surge.undecodable' AND id = '" + name + "/0/0'")
		if found != 1 {
			t.Fatal("the dead letter is not that of the record")
		}
		// It holds up its key like any dead letter, until somebody says that the key may go on without it.
		eventually(t, "the next of its key waits behind it", func() bool { return p.Stats().Postponed == 1 })
		if n := l.count(); n != 0 {
			t.Fatalf("%d messages overtook a dead one", n)
		}
		if n, err := p.Discard(t.Context(), name+"/0/0"); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		eventually(t, "the next of its key is handled", func() bool { return l.count() == 1 })
	})
}
