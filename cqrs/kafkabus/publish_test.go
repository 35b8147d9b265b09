package kafkabus_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/surge-go/surge/cqrs/kafkabus"
)

// wire stands between a publisher and the broker: it sees every connection and every send, and fails
// what it is told to. It gets there as a tracer.
type wire struct {
	kafka.SaramaTracer

	mu          sync.Mutex
	connections int
	sends       [][]string            // ids, by SendMessages
	fail        func(id string) error // nil: the record is sent
	hang        chan struct{}         // sends wait for it to close
	hanging     chan struct{}         // closed by the first that waits
}

type wired struct {
	sarama.SyncProducer
	wire *wire
}

func (w *wire) WrapSyncProducer(_ *sarama.Config, p sarama.SyncProducer) sarama.SyncProducer {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.connections++
	return &wired{p, w}
}

func (w *wire) failing(f func(id string) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail, w.sends = f, nil
}

func (w *wire) seen() (connections int, sends [][]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.connections, w.sends
}

func (p *wired) SendMessages(recs []*sarama.ProducerMessage) error {
	w := p.wire
	w.mu.Lock()
	var errs sarama.ProducerErrors
	var pass []*sarama.ProducerMessage
	var ids []string
	for _, r := range recs {
		id := string(r.Value.(sarama.ByteEncoder))
		ids = append(ids, id)
		if err := w.failure(id); err != nil {
			errs = append(errs, &sarama.ProducerError{Msg: r, Err: err})
		} else {
			pass = append(pass, r)
		}
	}
	w.sends = append(w.sends, ids)
	hang := w.hang
	if hang != nil && w.hanging != nil {
		close(w.hanging)
		w.hanging = nil
	}
	w.mu.Unlock()
	if hang != nil {
		<-hang
	}
	if err := p.SyncProducer.SendMessages(pass); err != nil {
		return err
	}
	if len(errs) > 0 {
		return errs
	}
	return nil
}

func (w *wire) failure(id string) error {
	if w.fail == nil {
		return nil
	}
	return w.fail(id)
}

func wiredBus(t *testing.T) (*wire, *kafkabus.Bus, string) {
	w := &wire{}
	cfg := quickConfig()
	cfg.Publisher.Tracer = w
	bus := open(t, fake(t).ListenAddrs(), cfg)
	return w, bus, topic(t, bus, 1)
}

func wantFailed(t *testing.T, err error, cause error, failed ...int) *kafkabus.PublishError {
	t.Helper()
	var pe *kafkabus.PublishError
	if !errors.As(err, &pe) || !errors.Is(err, cause) || !slices.Equal(pe.Failed(), failed) {
		t.Fatalf("Publish returned %v, want %v for %v", err, cause, failed)
	}
	return pe
}

func TestRule15_AFailureTakesTheRestOfItsKeyWithIt(t *testing.T) {
	t.Parallel()
	w, bus, name := wiredBus(t)
	w.failing(func(id string) error {
		if id == "a2" {
			return sarama.ErrNotEnoughReplicas
		}
		return nil
	})
	pub := bus.Publisher()
	batch := slices.Concat(keyed("a", "a1"), keyed("b", "b1"), keyed("a", "a2", "a3"), keyed("", "free"))
	pe := wantFailed(t, pub.Publish(name, batch...), sarama.ErrNotEnoughReplicas, 2, 3)
	if pe.Refused() {
		t.Fatal("a broker's trouble is not the message's fault")
	}

	// The rest is sent on a new connection, one message of a key at a time.
	w.failing(nil)
	again := slices.Concat(keyed("a", "a2", "a3"), keyed("c", "c1", "c2", "c3"), keyed("", "x", "y"))
	if err := pub.Publish(name, again...); err != nil {
		t.Fatal(err)
	}
	want := [][]string{{"a2", "c1", "x", "y"}, {"a3", "c2"}, {"c3"}}
	if n, sends := w.seen(); n != 2 || !slices.EqualFunc(sends, want, slices.Equal) {
		t.Fatalf("%d connections, sends %v", n, sends)
	}

	// After a success batches are whole again.
	w.failing(nil)
	if err := pub.Publish(name, again...); err != nil {
		t.Fatal(err)
	}
	if n, sends := w.seen(); n != 2 || len(sends) != 1 {
		t.Fatalf("%d connections, sends %v", n, sends)
	}
}

func TestRule15_ARepeatedSendStopsAKeyAtItsFirstFailure(t *testing.T) {
	t.Parallel()
	w, bus, name := wiredBus(t)
	pub := bus.Publisher()
	batch := slices.Concat(keyed("a", "a1", "a2", "a3"), keyed("b", "b1", "b2"))
	w.failing(func(string) error { return sarama.ErrNotEnoughReplicas })
	wantFailed(t, pub.Publish(name, batch...), sarama.ErrNotEnoughReplicas, 0, 1, 2, 3, 4)
	w.failing(func(id string) error {
		if id == "a2" {
			return sarama.ErrRequestTimedOut
		}
		return nil
	})
	wantFailed(t, pub.Publish(name, batch...), sarama.ErrRequestTimedOut, 1, 2)
	_, sends := w.seen()
	if sent := slices.Concat(sends...); slices.Contains(sent, "a3") || len(sent) != 4 {
		t.Fatalf("sent %v; a3 must not overtake a2", sends)
	}
	w.failing(nil)
	if err := pub.Publish(name, batch[1:3]...); err != nil {
		t.Fatal(err)
	}
	in := subscribe(t, subscriber(t, bus, "g"), name)
	var got []string
	for _, m := range read(t, in, 5) {
		if m.Metadata["ce_partitionkey"] == "a" {
			got = append(got, m.UUID)
		}
		m.Ack()
	}
	if !slices.Equal(got, []string{"a1", "a2", "a3"}) {
		t.Fatalf("key a arrived as %v", got)
	}
}

func TestRule15_TheContextBoundsPublish(t *testing.T) {
	t.Parallel()
	w, bus, name := wiredBus(t)
	release, hanging := make(chan struct{}), make(chan struct{})
	w.hang, w.hanging = release, hanging
	pub := bus.Publisher()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		<-hanging
		cancel()
	}()
	msgs := keyed("k", "1", "2")
	msgs[0].SetContext(ctx)
	wantFailed(t, pub.Publish(name, msgs...), context.Canceled, 0, 1)
	wantFailed(t, pub.Publish(name, msgs...), context.Canceled, 0, 1) // not even tried

	w.mu.Lock()
	w.hang = nil
	w.mu.Unlock()
	msgs[0].SetContext(t.Context())
	if err := pub.Publish(name, msgs...); err != nil {
		t.Fatal(err)
	}
	if n, _ := w.seen(); n != 2 {
		t.Fatalf("%d connections, want a new one after the timeout", n)
	}
	close(release)
	closed(t, pub)
	// What was under way arrives after all.
	lag, err := bus.Lag(t.Context(), "g", name)
	if err != nil || lag[name] != 4 {
		t.Fatalf("lag %v, %v", lag, err)
	}
}

func TestPublisherOutlivesErrorsOfTheBroker(t *testing.T) {
	t.Parallel()
	cluster := fake(t)
	bus := open(t, cluster.ListenAddrs(), quickConfig())
	name := topic(t, bus, 1)
	var failures int
	cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		failures++
		return produceError(req, kerr.NotLeaderForPartition.Code), nil, true
	})
	publish(t, bus, name, keyed("k", "retried")...)
	if failures != 1 {
		t.Fatal("the broker was not asked")
	}
	cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		return produceError(req, kerr.TopicAuthorizationFailed.Code), nil, true
	})
	pub := bus.Publisher()
	wantFailed(t, pub.Publish(name, keyed("k", "denied")...), sarama.ErrTopicAuthorizationFailed, 0)
	if err := pub.Publish(name, keyed("k", "allowed")...); err != nil {
		t.Fatal(err)
	}
	wantIDs(t, read(t, subscribe(t, subscriber(t, bus, "g"), name), 2), "retried", "allowed")
}

func produceError(req kmsg.Request, code int16) kmsg.Response {
	r := req.(*kmsg.ProduceRequest)
	resp := r.ResponseKind().(*kmsg.ProduceResponse)
	for _, t := range r.Topics {
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, code
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func TestAMessageThatIsTooLargeIsRefused(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		bus := open(t, brokers, quickConfig())
		name := topic(t, bus, 1)
		pub := bus.Publisher()
		large := message.NewMessage("large", make([]byte, 5<<20))
		err := pub.Publish(name, large)
		var pe *kafkabus.PublishError
		if !errors.As(err, &pe) || !pe.Refused() {
			t.Fatalf("%v is not a refusal", err)
		}
		err = pub.Publish(name, keyed("k", "small")[0], large)
		if !errors.As(err, &pe) || pe.Refused() || !slices.Equal(pe.Failed(), []int{1}) {
			t.Fatalf("among others: %v", err)
		}
		// Those behind it of its key wait for it.
		large.Metadata.Set("ce_partitionkey", "k")
		batch := slices.Concat(keyed("k", "first"), []*message.Message{large}, keyed("k", "later"), keyed("l", "other"))
		wantFailed(t, pub.Publish(name, batch...), sarama.ErrMessageSizeTooLarge, 1, 2)
		in := subscribe(t, subscriber(t, bus, watermill.NewShortUUID()), name)
		wantIDs(t, read(t, in, 3), "small", "first", "other")
	})
}

type broken struct{ kafkabus.Marshaler }

func (broken) Marshal(string, *message.Message) (*sarama.ProducerMessage, error) {
	return nil, errors.New("broken")
}

func TestAMessageThatCannotBeMarshaledIsRefused(t *testing.T) {
	t.Parallel()
	cfg := quickConfig()
	cfg.Publisher.Marshaler = broken{}
	bus := open(t, fake(t).ListenAddrs(), cfg)
	err := bus.Publisher().Publish("t", keyed("k", "1")...)
	var pe *kafkabus.PublishError
	if !errors.As(err, &pe) || !pe.Refused() || !strings.Contains(err.Error(), "broken") {
		t.Fatalf("%v", err)
	}
}

func TestABrokerThatIsDown(t *testing.T) {
	t.Parallel()
	cluster := fake(t)
	addrs := cluster.ListenAddrs()
	cluster.Close()
	bus := open(t, addrs, quickConfig())
	err := bus.Publisher().Publish("t", keyed("k", "1", "2")...)
	pe := wantFailed(t, err, sarama.ErrOutOfBrokers, 0, 1)
	if pe.Refused() {
		t.Fatal("the messages are not to blame")
	}
	subscribe(t, subscriber(t, bus, "g"), "t") // goes on trying until closed
	if err := bus.CreateTopics(t.Context(), kafkabus.Topic{Name: "t"}); !errors.Is(err, sarama.ErrOutOfBrokers) {
		t.Fatalf("CreateTopics: %v", err)
	}
}

func TestRule17_KeysGoWhereJavaPutsThem(t *testing.T) {
	t.Parallel()
	// From Apache Kafka's UtilsTest.testMurmur2.
	for key, hash := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string":                       -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		got, err := kafkabus.NewPartitioner("t").Partition(
			&sarama.ProducerMessage{Key: sarama.StringEncoder(key)}, math.MaxInt32)
		if want := hash & math.MaxInt32 % math.MaxInt32; err != nil || got != want {
			t.Errorf("%q: partition %d, %v; want %d", key, got, err, want)
		}
	}
}

func TestRule17_KeysGoWhereFranzGoPutsThem(t *testing.T) {
	t.Parallel()
	ours, theirs := kafkabus.NewPartitioner("t"), kgo.StickyKeyPartitioner(nil).ForTopic("t")
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "key")
		n := rapid.IntRange(1, 1000).Draw(t, "partitions")
		got, err := ours.Partition(&sarama.ProducerMessage{Key: sarama.ByteEncoder(key)}, int32(n))
		if want := theirs.Partition(&kgo.Record{Key: key}, n); err != nil || int(got) != want {
			t.Fatalf("partition %d, %v; want %d", got, err, want)
		}
	})
}

func TestKeylessMessagesAreSpread(t *testing.T) {
	t.Parallel()
	p := kafkabus.NewPartitioner("t").(sarama.DynamicConsistencyPartitioner)
	seen := map[int32]bool{}
	rec := &sarama.ProducerMessage{}
	for range 1000 {
		n, err := p.Partition(rec, 4)
		if err != nil || n < 0 || n > 3 {
			t.Fatal(n, err)
		}
		seen[n] = true
	}
	if len(seen) != 4 || p.MessageRequiresConsistency(rec) || !p.RequiresConsistency() {
		t.Fatalf("partitions used: %v", seen)
	}
	if !p.MessageRequiresConsistency(&sarama.ProducerMessage{Key: sarama.StringEncoder("k")}) {
		t.Fatal("a key may move when a partition is unavailable")
	}
}

// A broker that has too few replicas in sync refuses for longer than the publisher repeats: the batch fails, and
// goes through when it is published again.
func TestRule15_TooFewReplicasInSync(t *testing.T) {
	t.Parallel()
	cluster := fake(t)
	cfg := quickConfig()
	cfg.Publisher.OverwriteSaramaConfig = quick()
	cfg.Publisher.OverwriteSaramaConfig.Producer.Retry.Max = 2
	cfg.Publisher.OverwriteSaramaConfig.Producer.Retry.Backoff = time.Millisecond
	bus := open(t, cluster.ListenAddrs(), cfg)
	name := topic(t, bus, 1)
	fault := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1})
	pub := bus.Publisher()
	batch := slices.Concat(keyed("a", "a1", "a2"), keyed("b", "b1"))
	pe := wantFailed(t, pub.Publish(name, batch...), sarama.ErrNotEnoughReplicas, 0, 1, 2)
	if pe.Refused() || fault.Hits() < 3 {
		t.Fatalf("%v after %d tries", pe, fault.Hits())
	}
	fault.Remove()
	if err := pub.Publish(name, batch...); err != nil {
		t.Fatal(err)
	}
	wantIDs(t, read(t, subscribe(t, subscriber(t, bus, "g"), name), 3), "a1", "b1", "a2")
}
