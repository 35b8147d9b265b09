package kafkabus_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs/kafkabus"
)

// onClusters runs a benchmark in process and, where there are any, on real brokers.
func onClusters(b *testing.B, f func(b *testing.B, brokers []string)) {
	b.Run("kfake", func(b *testing.B) { f(b, fake(b).ListenAddrs()) })
	b.Run("kafka", func(b *testing.B) { f(b, realBrokers(b)) })
}

func benchMessages(n int) []*message.Message {
	msgs := make([]*message.Message, n)
	for i := range msgs {
		m := message.NewMessage(watermill.NewUUID(), make([]byte, 300))
		m.Metadata = message.Metadata{
			"ce_partitionkey": fmt.Sprintf("order-%d", i), "ce_type": "orders.placed", "ce_kind": "event",
			"ce_source": "orders", "ce_specversion": "1.0", "ce_time": "2026-01-01T00:00:00Z",
			"content-type": "application/json", "ce_correlationid": "c", "ce_causationid": "d",
		}
		msgs[i] = m
	}
	return msgs
}

func perSecond(b *testing.B) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// BenchmarkPublish publishes b.N messages of 300 bytes in batches to 4 partitions.
func BenchmarkPublish(b *testing.B) {
	onClusters(b, func(b *testing.B, brokers []string) {
		for _, size := range []int{1, 100, 500, 2000} {
			b.Run(fmt.Sprint("batch=", size), func(b *testing.B) {
				bus := open(b, brokers, quickConfig())
				name, pub, msgs := topic(b, bus, 4), bus.Publisher(), benchMessages(size)
				if err := pub.Publish(name, msgs[0]); err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				b.ResetTimer()
				for n := 0; n < b.N; n += size {
					if err := pub.Publish(name, msgs[:min(size, b.N-n)]...); err != nil {
						b.Fatal(err)
					}
				}
				perSecond(b)
			})
		}
	})
}

// BenchmarkConsume reads b.N messages of 300 bytes from 4 partitions and acks them in batches of up to
// 64, after a commit that takes some time; "stock" is watermill-kafka's subscriber.
func BenchmarkConsume(b *testing.B) {
	onClusters(b, func(b *testing.B, brokers []string) {
		for _, commit := range []time.Duration{0, time.Millisecond} {
			b.Run(fmt.Sprint("commit=", commit, "/window"), func(b *testing.B) {
				bus := open(b, brokers, quickConfig())
				consume(b, bus, subscriber(b, bus, watermill.NewShortUUID()), commit)
			})
			b.Run(fmt.Sprint("commit=", commit, "/stock"), func(b *testing.B) {
				sub, err := kafka.NewSubscriber(kafka.SubscriberConfig{
					Brokers: brokers, ConsumerGroup: watermill.NewShortUUID(), OverwriteSaramaConfig: quick(),
				}, nil)
				if err != nil {
					b.Fatal(err)
				}
				defer closed(b, sub)
				consume(b, open(b, brokers, quickConfig()), sub, commit)
			})
		}
	})
}

func consume(b *testing.B, bus *kafkabus.Bus, sub message.Subscriber, commit time.Duration) {
	name, pub, msgs := topic(b, bus, 4), bus.Publisher(), benchMessages(2000)
	for n := 0; n < b.N; n += len(msgs) {
		if err := pub.Publish(name, msgs[:min(len(msgs), b.N-n)]...); err != nil {
			b.Fatal(err)
		}
	}
	in := subscribe(b, sub, name)
	first := <-in // joining is not measured
	b.ReportAllocs()
	b.ResetTimer()
	first.Ack()
	held := make([]*message.Message, 0, 64)
	for n := 1; n < b.N; {
		m := <-in
		held = append(held[:0], m)
	batch:
		for len(held) < cap(held) && n+len(held) < b.N {
			select {
			case m := <-in:
				held = append(held, m)
			default:
				break batch
			}
		}
		if commit > 0 {
			<-time.After(commit)
		}
		for _, m := range held {
			m.Ack()
		}
		n += len(held)
	}
	b.StopTimer()
	perSecond(b)
}
