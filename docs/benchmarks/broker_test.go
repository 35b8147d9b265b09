package benchmarks_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs/kafkabus"
)

// A broker is a real Kafka cluster.
type broker struct {
	addresses []string
	bus       *kafkabus.Bus
	client    sarama.Client
}

func openKafka(b *testing.B) *broker {
	b.Helper()
	k := &broker{addresses: strings.Split(need(b, "SURGE_TEST_KAFKA"), ",")}
	var err error
	k.bus, err = kafkabus.New(k.addresses, kafkabus.Config{})
	must(b, err)
	b.Cleanup(func() { _ = k.bus.Close() })
	k.client, err = sarama.NewClient(k.addresses, sarama.NewConfig())
	must(b, err)
	b.Cleanup(func() { _ = k.client.Close() })
	return k
}

// topic makes a topic that is deleted when b ends.
func (k *broker) topic(b *testing.B, partitions int32) string {
	b.Helper()
	name := "bench-" + strings.ToLower(rand.Text()[:10])
	must(b, k.bus.CreateTopics(context.Background(), kafkabus.Topic{Name: name, Partitions: partitions}))
	b.Cleanup(func() {
		if admin, err := sarama.NewClusterAdmin(k.addresses, sarama.NewConfig()); err == nil {
			_ = admin.DeleteTopic(name)
			_ = admin.Close()
		}
	})
	return name
}

// records counts what a topic holds.
func (k *broker) records(b *testing.B, topic string) int {
	b.Helper()
	partitions, err := k.client.Partitions(topic)
	must(b, err)
	total := 0
	for _, p := range partitions {
		end, err := k.client.GetOffset(topic, p, sarama.OffsetNewest)
		must(b, err)
		total += int(end)
	}
	return total
}

// durable is how all producers are configured: acknowledged by all replicas, idempotent, keys where Java puts them.
func durable() *sarama.Config {
	cfg := sarama.NewConfig()
	cfg.Version = sarama.V2_8_0_0
	cfg.Producer.RequiredAcks = sarama.WaitForAll
	cfg.Producer.Idempotent = true
	cfg.Net.MaxOpenRequests = 1
	cfg.Producer.Return.Successes = true
	cfg.Producer.Partitioner = kafkabus.NewPartitioner
	return cfg
}

// A raw publisher is sarama without anything around it.
type raw struct{ sarama.SyncProducer }

func (k *broker) raw(b *testing.B) raw {
	b.Helper()
	p, err := sarama.NewSyncProducer(k.addresses, durable())
	must(b, err)
	b.Cleanup(func() { _ = p.Close() })
	return raw{p}
}

// Publish makes raw a publisher: a batch is one call of SendMessages.
func (r raw) Publish(topic string, msgs ...*message.Message) error {
	recs := make([]*sarama.ProducerMessage, len(msgs))
	for i, m := range msgs {
		headers := make([]sarama.RecordHeader, 0, len(m.Metadata)+1)
		headers = append(headers, sarama.RecordHeader{Key: []byte("ce_id"), Value: []byte(m.UUID)})
		for k, v := range m.Metadata {
			headers = append(headers, sarama.RecordHeader{Key: []byte(k), Value: []byte(v)})
		}
		recs[i] = &sarama.ProducerMessage{
			Topic: topic, Key: sarama.StringEncoder(m.Metadata["ce_partitionkey"]), Value: sarama.ByteEncoder(m.Payload),
			Headers: headers,
		}
	}
	return r.SendMessages(recs)
}

// group names a consumer group that nobody has used.
func group() string { return fmt.Sprint("bench-", strings.ToLower(rand.Text()[:10])) }
