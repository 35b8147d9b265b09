package kafkabus_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/surge-go/surge/cqrs/kafkabus"
)

func TestValidateNamesEveryFault(t *testing.T) {
	t.Parallel()
	unset := quick()
	unset.Consumer.Fetch.Default = 0
	transactional := quick()
	transactional.Producer.Transaction.ID = "shard-1"
	cooperative := quick()
	cooperative.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{
		sarama.NewBalanceStrategyCooperativeSticky(),
	}
	incomplete := quick()
	incomplete.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategySticky(), nil}
	for field, cfg := range map[string]kafkabus.Config{
		"cooperative":            {Subscriber: kafka.SubscriberConfig{OverwriteSaramaConfig: cooperative}},
		"transactional id":       {Publisher: kafka.PublisherConfig{OverwriteSaramaConfig: transactional}},
		"Config.Lost":            {Lost: 7},
		"Config.Window":          {Window: -1},
		"Config.Drain":           {Drain: -1},
		"Config.Topic has":       {Topic: kafkabus.Topic{Partitions: -1}},
		"Config.Topic.Retention": {Topic: kafkabus.Topic{Retention: time.Microsecond}},
		"WaitForTopicCreation":   {Subscriber: kafka.SubscriberConfig{WaitForTopicCreationTimeout: -1}},
		"Rebalance.Strategies":   {Subscriber: kafka.SubscriberConfig{OverwriteSaramaConfig: incomplete}},
		"Config.SASL.Mechanism":  {SASL: kafkabus.SASL{Mechanism: "MD5"}},
		"Config.SASL.User":       {SASL: kafkabus.SASL{Mechanism: kafkabus.Plain}},
		"Config.SASL.Token":      {SASL: kafkabus.SASL{Mechanism: kafkabus.OAuthBearer}},
		"Fetch.Default":          func() (c kafkabus.Config) { c.Subscriber.OverwriteSaramaConfig = unset; return }(),
	} {
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
		if _, err := kafkabus.New([]string{"b:9092"}, cfg); err == nil {
			t.Errorf("%s: New accepts what Validate does not", field)
		}
	}
	both := kafkabus.Config{Window: -1, Drain: -1}.Validate().Error()
	if !strings.Contains(both, "Window") || !strings.Contains(both, "Drain") {
		t.Errorf("one fault hides another: %v", both)
	}
	if err := (kafkabus.Config{}).Validate(); err != nil {
		t.Errorf("the zero value: %v", err)
	}
	for _, brokers := range [][]string{nil, {""}, {"b:9092", ""}} { // as strings.Split makes of an unset variable
		if _, err := kafkabus.New(brokers, kafkabus.Config{}); err == nil {
			t.Errorf("the brokers %q are enough", brokers)
		}
	}
	bus, err := kafkabus.New([]string{"b:9092"}, kafkabus.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bus.Subscriber(""); err == nil {
		t.Error("a group needs a name")
	}
}

func TestCreateTopics(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		cfg := quickConfig()
		cfg.Topic = kafkabus.Topic{Partitions: 2, Entries: map[string]string{"max.message.bytes": "123456"}}
		bus := open(t, brokers, cfg)
		name := topicPrefix + watermill.NewShortUUID()
		spec := kafkabus.Topic{Name: name, Replication: 1, MinInSync: 1, Retention: time.Hour}
		if err := bus.CreateTopics(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		if err := bus.CreateTopics(t.Context(), spec, kafkabus.Topic{Name: name}); err != nil {
			t.Fatalf("again: %v", err)
		}
		spec.Partitions = 3
		if err := bus.CreateTopics(t.Context(), spec); !errors.Is(err, kafkabus.ErrPartitions) {
			t.Fatalf("another number of partitions: %v", err)
		}
		if err := bus.CreateTopics(t.Context(), kafkabus.Topic{}); err == nil {
			t.Fatal("a topic without a name")
		}
		detail := describe(t, brokers, name)
		if detail.NumPartitions != 2 || detail.ReplicationFactor != 1 {
			t.Fatalf("%+v", detail)
		}
		for k, want := range map[string]string{
			"min.insync.replicas": "1", "retention.ms": "3600000", "max.message.bytes": "123456",
		} {
			if v := detail.ConfigEntries[k]; v == nil || *v != want {
				t.Errorf("%s is %v, want %s", k, v, want)
			}
		}
	})
}

// Kafka would take a retention of no whole millisecond for none at all, and remove every record.
func TestCreateTopicsRefusesWhatKafkaWouldMisunderstand(t *testing.T) {
	t.Parallel()
	bus := open(t, fake(t).ListenAddrs(), quickConfig())
	good := kafkabus.Topic{Name: "good"}
	for field, bad := range map[string]kafkabus.Topic{
		"Retention":  {Name: "bad", Retention: 999 * time.Microsecond},
		"partitions": {Name: "bad", Partitions: -1},
		"in sync":    {Name: "bad", MinInSync: -1},
	} {
		if err := bus.CreateTopics(t.Context(), good, bad); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := bus.Latest(t.Context(), "good"); err == nil {
		t.Error("some topics are created where others are refused")
	}
}

// On a cluster with auto.create.topics.enable, Kafka's default, whoever asks for a topic may make it, with the cluster's
// number of partitions, which then stays.
func TestReadingDoesNotCreateATopic(t *testing.T) {
	t.Parallel()
	c := fake(t, kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(1))
	cfg := quickConfig()
	cfg.Topic.Partitions = 6
	bus := open(t, c.ListenAddrs(), cfg)
	var asked atomic.Bool
	c.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		for _, t := range req.(*kmsg.MetadataRequest).Topics {
			asked.Store(asked.Load() || *t.Topic == "subscribed")
		}
		return nil, nil, false // the cluster answers
	})
	subscribe(t, subscriber(t, bus, "g"), "subscribed")
	eventually(t, "the subscriber looks for its topic", asked.Load)
	if _, err := bus.Lag(t.Context(), "g", "measured"); !errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
		t.Errorf("Lag = %v", err)
	}
	for _, name := range []string{"subscribed", "measured"} {
		if err := bus.CreateTopics(t.Context(), kafkabus.Topic{Name: name}); err != nil {
			t.Errorf("CreateTopics = %v", err)
		}
	}
	// Publishing is left to the cluster, as ever.
	if err := bus.Publisher().Publish("published", keyed("k", "1")...); err != nil {
		t.Errorf("Publish = %v", err)
	}
}

func adminClient(t testing.TB, brokers []string) sarama.ClusterAdmin {
	t.Helper()
	admin, err := sarama.NewClusterAdmin(brokers, quick())
	if err != nil {
		t.Fatal(err)
	}
	return admin
}

func describe(t *testing.T, brokers []string, name string) sarama.TopicDetail {
	t.Helper()
	admin := adminClient(t, brokers)
	defer closed(t, admin)
	var detail sarama.TopicDetail
	described, err := admin.DescribeConfigs(
		[]*sarama.ConfigResource{{Type: sarama.TopicResource, Name: name}}, sarama.DescribeConfigsOptions{})
	if err != nil || len(described) != 1 || described[0].ErrorCode != sarama.ErrNoError {
		t.Fatalf("%+v, %v", described, err)
	}
	detail.ConfigEntries = map[string]*string{}
	for _, e := range described[0].Configs {
		detail.ConfigEntries[e.Name] = &e.Value
	}
	topics, err := admin.DescribeTopics([]string{name})
	if err != nil || len(topics) != 1 || len(topics[0].Partitions) == 0 {
		t.Fatalf("%v, %v", topics, err)
	}
	detail.NumPartitions = int32(len(topics[0].Partitions))
	detail.ReplicationFactor = int16(len(topics[0].Partitions[0].Replicas))
	return detail
}
