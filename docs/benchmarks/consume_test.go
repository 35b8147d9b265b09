package benchmarks_test

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	wmcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// BenchmarkConsume reads one partition of a real broker with a handler that waits 2 ms, as for another service.
// Messages have 1,000 keys, whose order is kept. The clock runs from the first message to the last.
func BenchmarkConsume(b *testing.B) {
	wait := func() { <-time.After(2 * time.Millisecond) }
	n := scaled(b, 10_000)
	_, all := consumers(b, openKafka(b), n, n/40, cqrs.ProcessorConfig{Lanes: 512}, wait)
	contest(b, "msg/s", all...)
}

// BenchmarkConsumeNoop does the same with a handler that does nothing. "raw-sarama" counts the messages of the partition
// as sarama hands them out, and looks at none: nothing that reads with it can be faster.
func BenchmarkConsumeNoop(b *testing.B) {
	n := scaled(b, 20_000)
	k := openKafka(b)
	topic, all := consumers(b, k, n, n, cqrs.ProcessorConfig{}, func() {})
	contest(b, "msg/s", append(all, contender{
		name: "raw-sarama", against: []string{"watermill-kafka"}, round: func(b *testing.B) (int, time.Duration) {
			t := newTally(n)
			stop := k.count(b, topic, t)
			defer stop()
			return n, t.await(b)
		},
	})...)
}

// consumers are those that handle the n messages of one partition of a topic, or the slow ones fewer of them.
func consumers(
	b *testing.B, k *broker, n, fewer int, cfg cqrs.ProcessorConfig, work func(),
) (topic string, all []contender) {
	b.Helper()
	catalog := cqrs.NewCatalog(cqrs.Event[orderPlaced]{
		Name: "orders.placed", Topic: k.topic(b, 1), Key: func(e orderPlaced) string { return e.Order },
	})
	topic = k.fill(b, catalog, n)
	return topic, []contender{
		{name: "surge", round: func(b *testing.B) (int, time.Duration) {
			t := newTally(n)
			stop := k.surge(b, catalog, cfg, func(i int) { work(); t.done(i) })
			defer stop()
			return n, t.await(b)
		}},
		{name: "watermill-kafka", round: func(b *testing.B) (int, time.Duration) {
			t := newTally(fewer)
			stop := k.watermill(b, topic, true, func(i int) { work(); t.done(i) })
			defer stop()
			return fewer, t.await(b)
		}},
		{name: "watermill-kafka-commit", round: func(b *testing.B) (int, time.Duration) {
			t := newTally(n / 40)
			stop := k.watermill(b, topic, false, func(i int) { work(); t.done(i) })
			defer stop()
			return n / 40, t.await(b)
		}},
		{name: "watermill-cqrs", round: func(b *testing.B) (int, time.Duration) {
			t := newTally(fewer)
			stop := k.watermillCQRS(b, topic, func(i int) { work(); t.done(i) })
			defer stop()
			return fewer, t.await(b)
		}},
	}
}

// count reads the topic's partition without a group.
func (k *broker) count(b *testing.B, topic string, t *tally) (stop func()) {
	b.Helper()
	consumer, err := sarama.NewConsumerFromClient(k.client)
	must(b, err)
	in, err := consumer.ConsumePartition(topic, 0, sarama.OffsetOldest)
	must(b, err)
	var all sync.WaitGroup
	all.Go(func() {
		i := 0
		for range in.Messages() {
			t.done(i)
			i++
		}
	})
	return func() {
		must(b, in.Close())
		all.Wait()
		must(b, consumer.Close())
	}
}

// fill publishes events as a sender makes them.
func (k *broker) fill(b *testing.B, catalog *cqrs.Catalog, n int) (topic string) {
	b.Helper()
	keep := &keeper{}
	s, err := cqrs.NewSender(catalog, keep, cqrs.SenderConfig{Source: "shop"})
	must(b, err)
	for i := range n {
		must(b, s.Publish(context.Background(), orderPlaced{Order: strconv.Itoa(i % keys), Units: i}))
	}
	to := k.raw(b)
	for i := 0; i < n; i += 1000 {
		must(b, to.Publish(keep.topic, keep.msgs[i:min(n, i+1000)]...))
	}
	return keep.topic
}

// surge runs a processor without a database, on the bus as it comes but for where it starts to read.
func (k *broker) surge(
	b *testing.B, catalog *cqrs.Catalog, cfg cqrs.ProcessorConfig, handle func(i int),
) (stop func()) {
	b.Helper()
	s, err := cqrs.NewSender(catalog, k.bus.Publisher(), cqrs.SenderConfig{Source: "orders"})
	must(b, err)
	cfg.Subscribe = k.bus.Subscriber
	p, err := cqrs.NewProcessor(group(), s, cfg)
	must(b, err)
	cqrs.On(p, func(_ context.Context, e orderPlaced) error {
		handle(e.Units)
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	return func() {
		cancel()
		must(b, <-ended)
	}
}

// stock is watermill-kafka's subscriber. It marks what is acknowledged and commits the marks every second, as ours
// does; or, without marks, it commits after each message.
func (k *broker) stock(b *testing.B, marks bool) *kafka.Subscriber {
	b.Helper()
	cfg := kafka.DefaultSaramaSubscriberConfig()
	cfg.Version = sarama.V2_8_0_0
	cfg.Consumer.Offsets.Initial = sarama.OffsetOldest
	cfg.Consumer.Offsets.AutoCommit.Enable = marks
	sub, err := kafka.NewSubscriber(kafka.SubscriberConfig{
		Brokers: k.addresses, ConsumerGroup: group(), OverwriteSaramaConfig: cfg, Unmarshaler: kafka.DefaultMarshaler{},
	}, nil)
	must(b, err)
	return sub
}

// watermill reads the subscriber in a loop with nothing around it: no router, no middleware.
func (k *broker) watermill(b *testing.B, topic string, marks bool, handle func(i int)) (stop func()) {
	b.Helper()
	sub := k.stock(b, marks)
	in, err := sub.Subscribe(context.Background(), topic)
	must(b, err)
	var all sync.WaitGroup
	all.Go(func() {
		for m := range in {
			var e orderPlaced
			if err := json.Unmarshal(m.Payload, &e); err != nil {
				b.Error(err)
				return
			}
			handle(e.Units)
			m.Ack()
		}
	})
	return func() {
		must(b, sub.Close())
		all.Wait()
	}
}

// watermillCQRS runs Watermill's event processor on a router, without middleware.
func (k *broker) watermillCQRS(b *testing.B, topic string, handle func(i int)) (stop func()) {
	b.Helper()
	router, err := message.NewRouter(message.RouterConfig{}, nil)
	must(b, err)
	p, err := wmcqrs.NewEventProcessorWithConfig(router, wmcqrs.EventProcessorConfig{
		GenerateSubscribeTopic: func(wmcqrs.EventProcessorGenerateSubscribeTopicParams) (string, error) {
			return topic, nil
		},
		SubscriberConstructor: func(wmcqrs.EventProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return k.stock(b, true), nil
		},
		Marshaler: typed{wmcqrs.JSONMarshaler{GenerateName: func(any) string { return "orders.placed" }}},
	})
	must(b, err)
	must(b, p.AddHandlers(wmcqrs.NewEventHandler("bench", func(_ context.Context, e *orderPlaced) error {
		handle(e.Units)
		return nil
	})))
	ended := make(chan error, 1)
	go func() { ended <- router.Run(context.Background()) }()
	return func() {
		must(b, router.Close())
		must(b, <-ended)
	}
}

// typed finds a message's type where our sender writes it.
type typed struct{ wmcqrs.JSONMarshaler }

// NameFromMessage makes typed a marshaler of Watermill's processors.
func (typed) NameFromMessage(m *message.Message) string { return m.Metadata["ce_type"] }

// A tally notes which messages were handled; the first starts the clock, and the last one stops it.
type tally struct {
	seen  []atomic.Bool
	start sync.Once
	n     atomic.Int64
	began time.Time
	took  time.Duration
	all   chan struct{}
}

func newTally(want int) *tally {
	return &tally{seen: make([]atomic.Bool, want), all: make(chan struct{})}
}

// done notes message i; messages beyond the wanted ones, and repeated ones, do not count.
func (t *tally) done(i int) {
	if i >= len(t.seen) || t.seen[i].Swap(true) {
		return
	}
	t.start.Do(func() { t.began = time.Now() })
	if t.n.Add(1) == int64(len(t.seen)) {
		t.took = time.Since(t.began)
		close(t.all)
	}
}

func (t *tally) await(b *testing.B) time.Duration {
	b.Helper()
	select {
	case <-t.all:
	case <-time.After(2 * time.Minute):
		b.Fatalf("%d of %d messages came", t.n.Load(), len(t.seen))
	}
	return t.took
}
