package kafkabus_test

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/surge-go/surge/cqrs/kafkabus"
)

func universal(t *testing.T, brokers []string, cfg kafkabus.Config, ordered bool) {
	// The suite leaves messages unacked behind when it closes subscribers.
	cfg.Drain = 100 * time.Millisecond
	group := func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
		bus := open(t, brokers, cfg)
		return bus.Publisher(), subscriber(t, bus, group)
	}
	features := tests.Features{
		ConsumerGroups: true, Persistent: true, GuaranteedOrder: ordered, ForceShort: true,
		GenerateTopicFunc: func(c tests.TestContext) string { return topicPrefix + c.TestID.String() },
	}
	tests.TestPubSub(t, features,
		func(t *testing.T) (message.Publisher, message.Subscriber) { return group(t, "test-"+t.Name()) }, group)
}

func TestWatermillSuite(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) { universal(t, brokers, quickConfig(), false) })
}

// With a window of one on one partition the suite's strict order holds: the next message only after the ack.
func TestWatermillSuiteStrictOrder(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		cfg := quickConfig()
		cfg.Window, cfg.Topic.Partitions = 1, 1
		universal(t, brokers, cfg, true)
	})
}
