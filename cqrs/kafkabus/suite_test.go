package kafkabus_test

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/surge-go/surge/cqrs/kafkabus"
)

// features are what the suite's flags say of this package. Those that stay false: ExactlyOnceDelivery, because
// redeliveries are possible; GuaranteedOrderWithSingleSubscriber and RequireSingleInstance, because nothing is so
// limited; ContextPreserved, because a context does not travel through a broker. GuaranteedOrder means to the suite
// that the next message comes after the ack, so it is true of a window of one on one partition.
// RestartServiceCommand stays empty: the suite does not await the restarts that it begins. TestChaosOnACluster does.
func features(ordered bool) tests.Features {
	return tests.Features{
		ConsumerGroups: true, Persistent: true, GuaranteedOrder: ordered, ForceShort: true,
		GenerateTopicFunc: func(c tests.TestContext) string { return topicPrefix + c.TestID.String() },
	}
}

// inGroup makes the suite's instances. Its tests leave messages unacked behind when they close subscribers.
func inGroup(brokers []string, cfg kafkabus.Config) tests.ConsumerGroupPubSubConstructor {
	cfg.Drain = 100 * time.Millisecond
	return func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
		bus := open(t, brokers, cfg)
		return bus.Publisher(), subscriber(t, bus, group)
	}
}

func universal(t *testing.T, brokers []string, cfg kafkabus.Config, ordered bool) {
	group := inGroup(brokers, cfg)
	tests.TestPubSub(t, features(ordered),
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

// A window of many keeps the order too; it only does not wait for acks.
func TestWatermillSuiteOrderWithAWindow(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		cfg := quickConfig()
		cfg.Topic.Partitions = 1
		one(t, brokers, cfg, features(true), tests.TestPublishSubscribeInOrder, false)
	})
}

// NewSubscriberReceivesOldMessages is true of subscribers with groups of their own, as it is of Kafka.
func TestWatermillSuiteOldMessages(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		f := features(false)
		f.NewSubscriberReceivesOldMessages = true
		one(t, brokers, quickConfig(), f, tests.TestNewSubscriberReceivesOldMessages, true)
	})
}

// one runs a single test of the suite.
func one(
	t *testing.T, brokers []string, cfg kafkabus.Config, f tests.Features,
	test func(*testing.T, tests.TestContext, tests.PubSubConstructor), alone bool,
) {
	group, name := inGroup(brokers, cfg), watermill.NewShortUUID()
	test(t, tests.TestContext{TestID: tests.NewTestID(), Features: f},
		func(t *testing.T) (message.Publisher, message.Subscriber) {
			if alone {
				name = watermill.NewShortUUID()
			}
			return group(t, name)
		})
}
