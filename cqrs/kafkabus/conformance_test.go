package kafkabus_test

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs/cqrstest"
	"github.com/surge-go/surge/cqrs/kafkabus"
)

func conforms(t *testing.T, brokers []string, cfg kafkabus.Config, claims cqrstest.BusClaims) {
	cqrstest.RunBus(t, func(t *testing.T, drain time.Duration) cqrstest.BusFixture {
		cfg := cfg // each fixture's own
		sarama := quick()
		sarama.Consumer.Group.Rebalance.Timeout = time.Minute
		cfg.Subscriber.OverwriteSaramaConfig = sarama
		cfg.Drain = min(drain, 30*time.Second) // at most half of it
		bus := open(t, brokers, cfg)
		return cqrstest.BusFixture{Bus: bus, Topic: topic(t, bus, 3), Claims: claims}
	})
}

func TestConformance(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		cfg := quickConfig()
		cfg.Window = 200
		conforms(t, brokers, cfg, cqrstest.BusClaims{
			Groups: true, Durable: true, Keeps: true, Order: true, Drains: true, Window: 200,
		})
	})
}

func TestConformanceWithAWindowOfOne(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		cfg := quickConfig()
		cfg.Window = 1
		conforms(t, brokers, cfg, cqrstest.BusClaims{
			Groups: true, Durable: true, Keeps: true, Order: true, Drains: true,
		})
	})
}

// stock is watermill-kafka as a program would configure it that wants order per key and no message lost.
type stock struct {
	t       *testing.T
	brokers []string
}

func (s stock) marshaler() kafka.MarshalerUnmarshaler {
	return kafka.NewWithPartitioningMarshaler(func(_ string, m *message.Message) (string, error) {
		return m.Metadata["ce_partitionkey"], nil
	})
}

func (s stock) Publisher() message.Publisher {
	p, err := kafka.NewPublisher(
		kafka.PublisherConfig{Brokers: s.brokers, Marshaler: s.marshaler()}, watermill.NopLogger{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { closed(s.t, p) })
	return p
}

func (s stock) Subscriber(group string) (message.Subscriber, error) {
	return kafka.NewSubscriber(kafka.SubscriberConfig{
		Brokers: s.brokers, Unmarshaler: s.marshaler(), ConsumerGroup: group,
		OverwriteSaramaConfig: quick(), NackResendSleep: time.Millisecond,
	}, watermill.NopLogger{})
}

// The stock Kafka Pub/Sub waits for each ack before it delivers a partition's next message, and its Close does not
// wait for acks; otherwise it is as good a bus for a processor.
func TestConformanceOfStockKafka(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		cqrstest.RunBus(t, func(t *testing.T, _ time.Duration) cqrstest.BusFixture {
			return cqrstest.BusFixture{
				Bus:   stock{t, brokers},
				Topic: topic(t, open(t, brokers, quickConfig()), 3),
				Claims: cqrstest.BusClaims{
					Groups: true, Durable: true, Keeps: true, Order: true,
				},
			}
		})
	})
}
