package kafkabus_test

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/surge-go/surge/cqrs/kafkabus"
)

func TestRule04_OffsetsAreCommittedUpToTheOldestUnackedRecord(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		cfg := quickConfig()
		cfg.Drain = 50 * time.Millisecond
		bus := open(t, brokers, cfg)
		name, group := topic(t, bus, 1), watermill.NewShortUUID()
		publish(t, bus, name, keyed("k", numbered(10)...)...)

		sub := subscriber(t, bus, group)
		got := read(t, subscribe(t, sub, name), 10)
		wantIDs(t, got, numbered(10)...)
		for i, m := range got {
			if i != 3 {
				m.Ack()
			}
		}
		closed(t, sub)
		lag, err := bus.Lag(t.Context(), group, name)
		if err != nil || lag[name] != 7 {
			t.Fatalf("lag %v, %v; the commit must stop before the unacked record", lag, err)
		}
		again := read(t, subscribe(t, subscriber(t, bus, group), name), 7)
		wantIDs(t, again, numbered(10)[3:]...)
		ack(again...)
	})
}

func TestRule04_OffsetsWithGaps(t *testing.T) {
	t.Parallel()
	brokers := fake(t).ListenAddrs()
	bus := open(t, brokers, quickConfig())
	name := topic(t, bus, 1)
	// Every transaction leaves a control record behind, which takes an offset and is never received.
	for _, id := range []string{"a", "b", "c"} {
		produceInTransaction(t, brokers, name, id)
	}
	sub := subscriber(t, bus, "g")
	got := read(t, subscribe(t, sub, name), 3)
	wantIDs(t, got, "a", "b", "c")
	slices.Reverse(got)
	ack(got...)
	closed(t, sub)
	publish(t, bus, name, keyed("k", "d")...)
	wantIDs(t, read(t, subscribe(t, subscriber(t, bus, "g"), name), 1), "d")
}

func produceInTransaction(t *testing.T, brokers []string, topic, id string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.TransactionalID("tx"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	rec := &kgo.Record{Topic: topic, Headers: []kgo.RecordHeader{{Key: "ce_id", Value: []byte(id)}}}
	if err := client.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
}

func TestRule06_RevokedPartitionsAreDrainedBeforeTheyMove(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		cfg := quickConfig()
		cfg.Drain = 5 * time.Second
		bus := open(t, brokers, cfg)
		name, group := topic(t, bus, 2), watermill.NewShortUUID()
		var msgs []*message.Message
		for i := range 40 {
			msgs = append(msgs, keyed(fmt.Sprint("key", i), fmt.Sprint(i))...)
		}
		publish(t, bus, name, msgs...)

		first := subscribe(t, subscriber(t, bus, group), name)
		held := read(t, first, 40)
		second := subscribe(t, subscriber(t, bus, group), name)
		// The rebalance ends the session, which ends the contexts; the handlers finish and ack.
		for _, m := range held {
			select {
			case <-m.Context().Done():
			case <-time.After(patience):
				t.Fatal("the contexts outlive the session")
			}
		}
		select {
		case m := <-second:
			t.Fatalf("%s was handed to another member while its first handler runs", m.UUID)
		case <-time.After(500 * time.Millisecond):
		}
		ack(held...)

		for i := range msgs {
			msgs[i] = message.NewMessage(fmt.Sprint("new", i), nil)
			msgs[i].Metadata["ce_partitionkey"] = fmt.Sprint("key", i)
		}
		publish(t, bus, name, msgs...)
		from := [2]int{}
		for range msgs {
			var m *message.Message
			select {
			case m = <-first:
				from[0]++
			case m = <-second:
				from[1]++
			case <-time.After(patience):
				t.Fatalf("received %v of %d", from, len(msgs))
			}
			if !strings.HasPrefix(m.UUID, "new") {
				t.Fatalf("%s was delivered again though it was acked in the drain", m.UUID)
			}
			m.Ack()
		}
		if from[0] == 0 || from[1] == 0 {
			t.Fatalf("the members do not share the partitions: %v", from)
		}
	})
}

func TestRule06_TheDrainIsBounded(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		cfg := quickConfig()
		cfg.Drain = 100 * time.Millisecond
		bus := open(t, brokers, cfg)
		name, group := topic(t, bus, 1), watermill.NewShortUUID()
		publish(t, bus, name, keyed("k", "0", "1", "2")...)
		hung := subscriber(t, bus, group)
		wantIDs(t, read(t, subscribe(t, hung, name), 3), "0", "1", "2")
		start := time.Now()
		closed(t, hung)
		if took := time.Since(start); took < 100*time.Millisecond {
			t.Fatalf("gave up after %v", took)
		}
		wantIDs(t, read(t, subscribe(t, subscriber(t, bus, group), name), 3), "0", "1", "2")
	})
}

func TestWhatNobodyHasReadIsNotWaitedFor(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		cfg := quickConfig()
		cfg.Drain = patience
		cfg.Subscriber.OverwriteSaramaConfig.Consumer.Group.Rebalance.Timeout = 2 * patience // Drain is at most half
		bus := open(t, brokers, cfg)
		name, group := topic(t, bus, 1), watermill.NewShortUUID()
		publish(t, bus, name, keyed("k", numbered(20)...)...)
		sub := subscriber(t, bus, group)
		read(t, subscribe(t, sub, name), 1)[0].Ack()
		start := time.Now()
		closed(t, sub)
		if took := time.Since(start); took > 20*time.Second {
			t.Fatalf("Close took %v", took)
		}
		rest := read(t, subscribe(t, subscriber(t, bus, group), name), 19)
		wantIDs(t, rest, numbered(20)[1:]...)
		ack(rest...)
	})
}

// deaf is the address of a broker that accepts connections and never answers, until end is called.
func deaf(t *testing.T) (address string, accepted <-chan struct{}, end func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	first, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer closed(t, c)
			if n == 0 {
				close(first)
			}
		}
	}()
	return l.Addr().String(), first, func() {
		closed(t, l)
		<-over
	}
}

func TestBrokersThatDoNotAnswerDoNotHoldUpClose(t *testing.T) {
	t.Parallel()
	address, accepted, end := deaf(t)
	cfg := quickConfig()
	cfg.Subscriber.OverwriteSaramaConfig.Net.ReadTimeout = time.Second
	cfg.Subscriber.OverwriteSaramaConfig.Metadata.Retry.Max = 60
	sub := subscriber(t, open(t, []string{address}, cfg), "g")
	in := subscribe(t, sub, "topic")
	<-accepted
	if err := sub.Close(); !errors.Is(err, kafkabus.ErrUnanswered) {
		t.Errorf("Close = %v", err)
	}
	if _, more := <-in; more {
		t.Error("a message came")
	}
	end()
	eventually(t, "the member ends", func() bool { return sub.Close() == nil })
}

func TestAStaticMemberComesBackWithoutARebalance(t *testing.T) {
	t.Parallel()
	brokers := realBrokers(t)
	member := func(id string) (*kafkabus.Bus, kafkabus.Config) {
		cfg := quickConfig()
		cfg.InstanceID, cfg.Drain = id, 5*time.Second
		return open(t, brokers, cfg), cfg
	}
	group := watermill.NewShortUUID()
	one, _ := member("one")
	two, _ := member("two")
	name := topic(t, one, 2)
	var msgs []*message.Message
	for i := range 20 {
		msgs = append(msgs, keyed(fmt.Sprint(i), fmt.Sprint(i))...)
	}
	subOne, subTwo := subscriber(t, one, group), subscriber(t, two, group)
	inOne, inTwo := subscribe(t, subOne, name), subscribe(t, subTwo, name)
	shared := func() bool {
		publish(t, one, name, msgs...)
		a, b := 0, 0
		for a+b < len(msgs) {
			select {
			case m := <-inOne:
				a++
				m.Ack()
			case m := <-inTwo:
				b++
				m.Ack()
			case <-time.After(patience):
				t.Fatalf("received %d and %d", a, b)
			}
		}
		return a > 0 && b > 0
	}
	eventually(t, "both members have a partition", shared)

	publish(t, one, name, msgs...)
	held := read(t, inTwo, 1)[0]
	closed(t, subOne)
	inOne = subscribe(t, subscriber(t, one, group), name)
	for m := range inOne {
		m.Ack()
		break
	}
	if held.Context().Err() != nil {
		t.Fatal("the other member's session ended")
	}
	held.Ack()
}
