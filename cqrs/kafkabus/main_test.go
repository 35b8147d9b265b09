package kafkabus_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/surge-go/surge/cqrs/kafkabus"
)

// topicPrefix tells the topics of this run from everything else on a shared broker.
var topicPrefix = "surgetest-" + watermill.NewShortUUID() + "-"

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// sarama's metrics library keeps one ticker for the life of the process.
		goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"),
		goleak.Cleanup(func(code int) {
			if err := deleteTopics(); err != nil {
				fmt.Fprintln(os.Stderr, "topics stay behind:", err)
			}
			os.Exit(code)
		}))
}

// deleteTopics removes what the tests created on real brokers.
func deleteTopics() error {
	brokers := os.Getenv("SURGE_TEST_KAFKA")
	if brokers == "" {
		return nil
	}
	admin, err := sarama.NewClusterAdmin(strings.Split(brokers, ","), quick())
	if err != nil {
		return err
	}
	topics, err := admin.ListTopics()
	errs := []error{err}
	for name := range topics {
		if strings.HasPrefix(name, topicPrefix) {
			errs = append(errs, admin.DeleteTopic(name))
		}
	}
	return errors.Join(append(errs, admin.Close())...)
}

// patience bounds what a test waits for, on a busy machine too.
const patience = 30 * time.Second

// fake starts a cluster that speaks Kafka's protocol in this process.
func fake(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// onKafka runs a test on the cluster in the process and, where there is one, on real brokers.
func onKafka(t *testing.T, f func(t *testing.T, brokers []string)) {
	t.Parallel()
	t.Run("kfake", func(t *testing.T) {
		t.Parallel()
		f(t, fake(t).ListenAddrs())
	})
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		f(t, realBrokers(t))
	})
}

func realBrokers(t testing.TB) []string {
	t.Helper()
	brokers := os.Getenv("SURGE_TEST_KAFKA")
	if brokers == "" {
		t.Skip("SURGE_TEST_KAFKA is not set to the addresses of Kafka brokers")
	}
	return strings.Split(brokers, ",")
}

// quick is a consumer configuration whose group notices changes soon.
func quick() *sarama.Config {
	s := sarama.NewConfig()
	s.Version = sarama.V2_8_0_0
	s.Consumer.Offsets.Initial = sarama.OffsetOldest
	s.Consumer.Group.Heartbeat.Interval = 100 * time.Millisecond
	s.Consumer.Group.Session.Timeout = 10 * time.Second
	s.Consumer.Group.Rebalance.Timeout = 10 * time.Second
	s.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategySticky()}
	s.Consumer.MaxWaitTime = 50 * time.Millisecond
	s.Consumer.Retry.Backoff = 50 * time.Millisecond
	s.Consumer.Group.Rebalance.Retry.Backoff = 50 * time.Millisecond
	s.Metadata.Retry.Backoff = 50 * time.Millisecond
	return s
}

func quickConfig() kafkabus.Config {
	cfg := kafkabus.Config{Drain: 200 * time.Millisecond} // many tests leave messages unacked
	cfg.Subscriber.OverwriteSaramaConfig = quick()
	return cfg
}

func open(t testing.TB, brokers []string, cfg kafkabus.Config) *kafkabus.Bus {
	t.Helper()
	bus, err := kafkabus.New(brokers, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bus.Close(); err != nil {
			t.Error(err)
		}
	})
	return bus
}

// topic creates one under a new name.
func topic(t testing.TB, bus *kafkabus.Bus, partitions int32) string {
	t.Helper()
	name := topicPrefix + watermill.NewShortUUID()
	if err := bus.CreateTopics(t.Context(), kafkabus.Topic{Name: name, Partitions: partitions}); err != nil {
		t.Fatal(err)
	}
	return name
}

func subscriber(t testing.TB, bus *kafkabus.Bus, group string) message.Subscriber {
	t.Helper()
	sub, err := bus.Subscriber(group)
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

func subscribe(t testing.TB, sub message.Subscriber, topic string) <-chan *message.Message {
	t.Helper()
	in, err := sub.Subscribe(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func keyed(key string, ids ...string) []*message.Message {
	msgs := make([]*message.Message, len(ids))
	for i, id := range ids {
		msgs[i] = message.NewMessage(id, []byte(id))
		if key != "" {
			msgs[i].Metadata["ce_partitionkey"] = key
		}
	}
	return msgs
}

// read waits for n messages.
func read(t testing.TB, in <-chan *message.Message, n int) []*message.Message {
	t.Helper()
	timeout := time.After(patience)
	var got []*message.Message
	for len(got) < n {
		select {
		case m, ok := <-in:
			if !ok {
				t.Fatalf("channel closed after %v, want %d messages", ids(got), n)
			}
			got = append(got, m)
		case <-timeout:
			t.Fatalf("received %v, want %d messages", ids(got), n)
		}
	}
	return got
}

func ids(msgs []*message.Message) []string {
	s := make([]string, len(msgs))
	for i, m := range msgs {
		s[i] = m.UUID
	}
	return s
}

func closed(t testing.TB, c interface{ Close() error }) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}
