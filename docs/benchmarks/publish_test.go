package benchmarks_test

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
)

// BenchmarkPublish publishes batches of 100 messages of 300 bytes and 9 headers to a topic of 4 partitions on a real
// broker, with acks=all and idempotent producers.
func BenchmarkPublish(b *testing.B) {
	k := openKafka(b)
	stock, err := kafka.NewPublisher(kafka.PublisherConfig{
		Brokers: k.addresses, OverwriteSaramaConfig: durable(), Marshaler: kafka.DefaultMarshaler{},
	}, nil)
	must(b, err)
	b.Cleanup(func() { _ = stock.Close() })
	n := scaled(b, 10_000)
	contest(b, "msg/s",
		contender{name: "surge", round: k.published(k.bus.Publisher(), n, 100)},
		contender{name: "watermill-kafka", round: k.published(stock, n/20, 100)},
		contender{name: "raw-sarama", round: k.published(k.raw(b), n, 100)},
	)
}

// published publishes n messages in batches, one after the other, and counts them in the topic.
func (k *broker) published(
	to interface {
		Publish(topic string, msgs ...*message.Message) error
	}, n, batch int,
) func(b *testing.B) (int, time.Duration) {
	return func(b *testing.B) (int, time.Duration) {
		b.Helper()
		topic := k.topic(b, 4)
		msgs := messages(0, n)
		must(b, to.Publish(topic, msgs[0])) // finds out where the partitions are
		began := time.Now()
		for i := 0; i < n; i += batch {
			must(b, to.Publish(topic, msgs[i:min(n, i+batch)]...))
		}
		took := time.Since(began)
		if got := k.records(b, topic); got != n+1 {
			b.Fatalf("the topic holds %d records, want %d", got, n+1)
		}
		return n, took
	}
}
