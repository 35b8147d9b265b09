package projection_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/kafkabus"
	"github.com/surge-go/surge/cqrs/projection"
)

// onKafka runs a test on the cluster in the process and, where there is one, on real brokers.
func onKafka(t *testing.T, f func(t *testing.T, k *kafka)) {
	t.Parallel()
	t.Run("kfake", func(t *testing.T) {
		t.Parallel()
		c, err := kfake.NewCluster(kfake.NumBrokers(1))
		must(t, err)
		t.Cleanup(c.Close)
		f(t, newKafka(t, c.ListenAddrs()))
	})
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		brokers := os.Getenv("SURGE_TEST_KAFKA")
		if brokers == "" {
			t.Skip("SURGE_TEST_KAFKA is not set")
		}
		f(t, newKafka(t, strings.Split(brokers, ",")))
	})
}

// kafka is a world whose events are on a topic of their own, of four partitions, kept for ever.
type kafka struct {
	*world
	brokers []string
	topic   string
	sent    map[string]string // the model of everything
}

func newKafka(t *testing.T, brokers []string) *kafka {
	t.Helper()
	k := &kafka{world: newWorld(t, openSQLite(t)), brokers: brokers, sent: map[string]string{}}
	k.topic = "surgetest-projection-" + watermill.NewShortUUID()
	k.catalog = cqrs.NewCatalog(
		cqrs.Event[Noted]{Name: "notes.noted", Topic: k.topic, Key: func(e Noted) string { return e.Key }})
	bus := k.open()
	must(t, bus.CreateTopics(t.Context(), kafkabus.Topic{Name: k.topic, Partitions: 4, Retention: -1}))
	t.Cleanup(func() {
		k.admin(func(a sarama.ClusterAdmin) error { return a.DeleteTopic(k.topic) })
	})
	var err error
	k.sender, err = cqrs.NewSender(k.catalog, bus.Publisher(), cqrs.SenderConfig{})
	must(t, err)
	return k
}

// open makes the bus of a process.
func (k *kafka) open() *kafkabus.Bus {
	k.t.Helper()
	s := sarama.NewConfig()
	s.Version = sarama.V2_8_0_0
	s.Consumer.Offsets.Initial = sarama.OffsetNewest // the checkpoint decides
	s.Consumer.Group.Heartbeat.Interval = 100 * time.Millisecond
	s.Consumer.Group.Rebalance.Timeout = 10 * time.Second
	s.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategySticky()}
	s.Consumer.MaxWaitTime = 50 * time.Millisecond
	s.Metadata.Retry.Backoff = 50 * time.Millisecond
	cfg := kafkabus.Config{Drain: 200 * time.Millisecond}
	cfg.Subscriber.OverwriteSaramaConfig = s
	cfg.Subscriber.ReconnectRetrySleep = 50 * time.Millisecond
	bus, err := kafkabus.New(k.brokers, cfg)
	must(k.t, err)
	k.t.Cleanup(func() { must(k.t, bus.Close()) })
	return bus
}

func (k *kafka) admin(f func(sarama.ClusterAdmin) error) {
	k.t.Helper()
	s := sarama.NewConfig()
	s.Version = sarama.V2_8_0_0
	a, err := sarama.NewClusterAdmin(k.brokers, s)
	must(k.t, err)
	must(k.t, errors.Join(f(a), a.Close()))
}

// process is one member: a bus of its own and a projection. Only checkpoints keep events from being applied twice.
func (k *kafka) process() *running {
	k.t.Helper()
	cfg := k.config()
	cfg.Inbox, cfg.Guarded, cfg.MaxBatch = nil, true, 16
	return k.run(k.on(k.open(), cfg))
}

func (k *kafka) publish(from, to int) {
	k.t.Helper()
	var all []any
	for n := from; n <= to; n++ {
		key := fmt.Sprint("k", n%11)
		all = append(all, Noted{key, n})
		add(k.sent, key, fmt.Sprint(n))
	}
	must(k.t, k.sender.Publish(k.t.Context(), all...))
}

func (k *kafka) level(p *projection.Projection) {
	k.t.Helper()
	want := fmt.Sprint(k.sent)
	eventually(k.t, "the model is level", func() (bool, string) {
		rows := k.rows(p)
		return fmt.Sprint(rows) == want, brief(rows) + " is not " + brief(k.sent)
	})
}

// Two members share a topic; one comes, the other goes, a rebuild runs meanwhile. Every event is applied once, in
// its key's order, with nothing but the checkpoints to see to it.
func TestKafkaMembersComeAndGo(t *testing.T) {
	onKafka(t, func(t *testing.T, k *kafka) {
		first := k.process()
		k.publish(1, 200)
		second := k.process()
		k.publish(201, 400)
		k.level(second.Projection)
		rebuilt := make(chan error, 1)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() { rebuilt <- second.Rebuild(ctx) })
		defer wg.Wait()
		k.publish(401, 500)
		must(t, first.stop())
		k.publish(501, 600)
		must(t, <-rebuilt)
		if got := k.generation(second.Projection); got != 2 {
			t.Fatalf("generation %d is live", got)
		}
		third := k.process()
		k.publish(601, 700)
		k.level(third.Projection)
		must(t, second.stop())
		k.publish(701, 800)
		k.level(third.Projection)
		if lag := lagOf(t, third.Projection); lag.Behind() != 0 || len(lag.Partitions) != 4 {
			t.Fatalf("%+v", lag)
		}
	})
}

// What rule 33 asks of a topic is asked of a real one.
func TestRule33_KafkaTopicWithoutItsHistory(t *testing.T) {
	onKafka(t, func(t *testing.T, k *kafka) {
		p := k.process()
		k.publish(1, 100)
		k.level(p.Projection)
		must(t, p.stop())
		k.publish(101, 120)
		bus := k.open()
		latest, err := bus.Latest(t.Context(), k.topic)
		must(t, err)
		k.admin(func(a sarama.ClusterAdmin) error { return a.DeleteRecords(k.topic, latest) })

		again := k.on(bus, k.config())
		if _, err := again.StartRebuild(t.Context()); !errors.Is(err, projection.ErrNoSource) {
			t.Errorf("rebuild from a topic whose beginning is gone: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := again.Run(ctx); !errors.Is(err, projection.ErrHistoryLost) {
			t.Errorf("going on where records are gone: %v", err)
		}
	})
}

func TestRule33_KafkaTopicThatForgets(t *testing.T) {
	onKafka(t, func(t *testing.T, k *kafka) {
		for name, topic := range map[string]kafkabus.Topic{
			"retention":  {Retention: time.Hour},
			"compaction": {Retention: -1, Entries: map[string]string{"cleanup.policy": "compact"}},
		} {
			bus := k.open()
			topic.Name = k.topic + "-" + name
			must(t, bus.CreateTopics(t.Context(), topic))
			t.Cleanup(func() { k.admin(func(a sarama.ClusterAdmin) error { return a.DeleteTopic(topic.Name) }) })
			catalog := cqrs.NewCatalog(cqrs.Event[Noted]{Name: "notes.noted", Topic: topic.Name})
			p, err := projection.New(name, catalog, k.work, k.store, bus, k.config())
			must(t, err)
			projection.On(p, note)
			if err := p.Run(t.Context()); !errors.Is(err, projection.ErrNoSource) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
