package kafkabus_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/kafkabus"
)

func TestWindowBoundsUnackedMessages(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		cfg := quickConfig()
		cfg.Window = 4
		bus := open(t, brokers, cfg)
		name := topic(t, bus, 1)
		publish(t, bus, name, keyed("k", numbered(6)...)...)
		in := subscribe(t, subscriber(t, bus, watermill.NewShortUUID()), name)
		got := read(t, in, 4)
		select {
		case m := <-in:
			t.Fatalf("%s is beyond the window", m.UUID)
		case <-time.After(200 * time.Millisecond):
		}
		got[0].Ack()
		wantIDs(t, read(t, in, 1), "4")
		ack(got...)
		wantIDs(t, read(t, in, 1), "5")
	})
}

// A partition whose window is full is fetched no further than its buffer reaches, and holds up no other one.
func TestAFullPartitionHoldsUpNoOther(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		cfg := quickConfig()
		cfg.Window, cfg.Buffer = 2, 1
		bus := open(t, brokers, cfg)
		name := topic(t, bus, 2)
		for i := range 20 { // keys of both partitions
			publish(t, bus, name, keyed(fmt.Sprint("k", i), numbered(60)...)...)
		}
		latest, err := bus.Latest(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		in := subscribe(t, subscriber(t, bus, watermill.NewShortUUID()), name)
		var stuck []*message.Message
		full, acked := int32(-1), int64(0)
		take := func() {
			m := read(t, in, 1)[0]
			at, _ := cqrs.PositionOf(m.Context())
			if full < 0 {
				full = at.Partition
			}
			if at.Partition == full && len(stuck) < cfg.Window {
				stuck = append(stuck, m)
				return
			}
			m.Ack()
			acked++
		}
		for take(); acked < latest[1-full]; {
			take()
		}
		if len(stuck) != cfg.Window {
			t.Fatalf("%d messages of the full partition", len(stuck))
		}
		for ack(stuck...); acked < latest[0]+latest[1]-int64(len(stuck)); {
			take()
		}
	})
}

func TestANackRedeliversInOrder(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		bus := open(t, brokers, quickConfig())
		name := topic(t, bus, 1)
		publish(t, bus, name, keyed("k", numbered(5)...)...)
		in := subscribe(t, subscriber(t, bus, watermill.NewShortUUID()), name)
		got := read(t, in, 5)
		got[0].Ack()
		got[3].Ack()
		got[1].Nack()
		again := read(t, in, 3)
		wantIDs(t, again, "1", "2", "4")
		again[0].Nack()
		last := read(t, in, 3)
		wantIDs(t, last, "1", "2", "4")
		ack(last...)
		publish(t, bus, name, keyed("k", "5")...)
		wantIDs(t, read(t, in, 1), "5")
	})
}

func TestContextsAndPositions(t *testing.T) {
	type key struct{}
	onKafka(t, func(t *testing.T, brokers []string) {
		bus := open(t, brokers, quickConfig())
		name := topic(t, bus, 1)
		publish(t, bus, name, keyed("k", "0", "1")...)
		in, err := subscriber(t, bus, watermill.NewShortUUID()).Subscribe(
			context.WithValue(t.Context(), key{}, "v"), name)
		if err != nil {
			t.Fatal(err)
		}
		got := read(t, in, 2)
		at, ok := cqrs.PositionOf(got[1].Context())
		if !ok || at.Topic != name || at.Partition != 0 || at.Offset != 1 || at.Time.IsZero() {
			t.Fatalf("position %+v", at)
		}
		if got[0].Context().Value(key{}) != "v" || got[0].Context().Err() != nil {
			t.Fatal("not the context of Subscribe")
		}
		got[0].Ack()
		select {
		case <-got[0].Context().Done():
		case <-time.After(patience):
			t.Fatal("the context outlives the ack")
		}
		if got[1].Context().Err() != nil {
			t.Fatal("another message's ack ended the context")
		}
		got[1].Ack()
	})
	if _, ok := cqrs.PositionOf(t.Context()); ok {
		t.Fatal("a position from nowhere")
	}
}

func TestOneMemberReadsSeveralTopics(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		cfg := quickConfig()
		cfg.Drain = 50 * time.Millisecond
		bus := open(t, brokers, cfg)
		a, b := topic(t, bus, 2), topic(t, bus, 2)
		sub := subscriber(t, bus, watermill.NewShortUUID())
		ctx, leave := context.WithCancel(t.Context())
		inA, err := sub.Subscribe(ctx, a)
		if err != nil {
			t.Fatal(err)
		}
		inB := subscribe(t, sub, b)
		publish(t, bus, a, keyed("k", "in a")...)
		publish(t, bus, b, keyed("k", "in b")...)
		ack(read(t, inA, 1)...)
		ack(read(t, inB, 1)...)
		leave()
		select {
		case _, ok := <-inA:
			if ok {
				t.Fatal("a message came twice")
			}
		case <-time.After(patience):
			t.Fatal("the channel stays open")
		}
		publish(t, bus, b, keyed("k", "more")...)
		wantIDs(t, read(t, inB, 1), "more")
	})
}

func TestATopicThatDoesNotExistHoldsNothingUp(t *testing.T) {
	t.Parallel()
	cfg := quickConfig()
	cfg.Subscriber.ReconnectRetrySleep = 50 * time.Millisecond
	bus := open(t, fake(t).ListenAddrs(), cfg)
	there := topic(t, bus, 1)
	sub := subscriber(t, bus, "g")
	later, now := subscribe(t, sub, "later"), subscribe(t, sub, there)
	publish(t, bus, there, keyed("k", "now")...)
	ack(read(t, now, 1)...)
	if err := bus.CreateTopics(t.Context(), kafkabus.Topic{Name: "later"}); err != nil {
		t.Fatal(err)
	}
	publish(t, bus, "later", keyed("k", "later")...)
	ack(read(t, later, 1)...)
}

func TestUndecodableRecordsArriveAsMessages(t *testing.T) {
	t.Parallel()
	bus := open(t, fake(t).ListenAddrs(), quickConfig())
	name := topic(t, bus, 1)
	bad := keyed("k", "bad")[0]
	bad.Metadata["headers"] = "{"
	publish(t, bus, name, bad, keyed("k", "good")[0])
	got := read(t, subscribe(t, subscriber(t, bus, "g"), name), 2)
	wantIDs(t, got, name+"/0/0", "good")
	m := got[0]
	if m.Metadata["ce_type"] != kafkabus.TypeUndecodable || m.Metadata["ce_kind"] != "command" ||
		m.Metadata[kafkabus.HeaderUndecodable] == "" || m.Metadata["ce_partitionkey"] != "k" || string(m.Payload) != "bad" {
		t.Fatalf("metadata %v, payload %q", m.Metadata, m.Payload)
	}
	ack(got...)
}

func TestUndecodableRecordsCanBeSkipped(t *testing.T) {
	t.Parallel()
	cfg := quickConfig()
	cfg.Undecodable = func(*sarama.ConsumerMessage, error) *message.Message { return nil }
	bus := open(t, fake(t).ListenAddrs(), cfg)
	name := topic(t, bus, 1)
	var msgs []*message.Message
	for i := range 6 {
		m := keyed("k", fmt.Sprint(i))[0]
		if i%2 == 0 {
			m.Metadata["headers"] = "{"
		}
		msgs = append(msgs, m)
	}
	publish(t, bus, name, msgs...)
	sub := subscriber(t, bus, "g")
	in := subscribe(t, sub, name)
	got := read(t, in, 3)
	wantIDs(t, got, "1", "3", "5")
	got[0].Nack()
	got = read(t, in, 3)
	wantIDs(t, got, "1", "3", "5")
	ack(got...)
	closed(t, sub)
	if lag, err := bus.Lag(t.Context(), "g", name); err != nil || lag[name] != 0 {
		t.Fatalf("lag %v, %v", lag, err)
	}
}

func TestLag(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		bus := open(t, brokers, quickConfig())
		name, group := topic(t, bus, 3), watermill.NewShortUUID()
		var msgs []*message.Message
		for i := range 30 {
			msgs = append(msgs, keyed(fmt.Sprint(i), fmt.Sprint(i))...)
		}
		publish(t, bus, name, msgs...)
		sub := subscriber(t, bus, group)
		in := subscribe(t, sub, name)
		lagger := sub.(interface {
			Lag(ctx context.Context) (map[string]int64, error)
		})
		is := func(want int64) func() bool {
			return func() bool {
				lag, err := lagger.Lag(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return lag[name] == want && len(lag) == 1
			}
		}
		eventually(t, "30 wait", is(30))
		ack(read(t, in, 30)...)
		eventually(t, "none wait, by autocommit", is(0))
	})
}

// A topic that is not there yet has nothing that waits, and hides no other topic's lag.
func TestLagWithoutATopic(t *testing.T) {
	t.Parallel()
	bus := open(t, fake(t).ListenAddrs(), quickConfig())
	name := topic(t, bus, 1)
	publish(t, bus, name, keyed("k", "0", "1")...)
	sub := subscriber(t, bus, "g")
	in := subscribe(t, sub, name)
	subscribe(t, sub, "later")
	read(t, in, 2)
	lag, err := sub.(cqrs.Lagger).Lag(t.Context())
	if want := map[string]int64{name: 2, "later": 0}; err != nil || !maps.Equal(lag, want) {
		t.Errorf("%v, %v, want %v", lag, err, want)
	}
}

func TestClosedThingsSaySo(t *testing.T) {
	t.Parallel()
	bus := open(t, fake(t).ListenAddrs(), quickConfig())
	sub, pub := subscriber(t, bus, "g"), bus.Publisher()
	in := subscribe(t, sub, "nowhere")
	closed(t, bus)
	closed(t, bus)
	if _, ok := <-in; ok {
		t.Fatal("the channel is open")
	}
	_, again := sub.Subscribe(t.Context(), "t")
	_, fresh := bus.Subscriber("g")
	for what, err := range map[string]error{
		"Subscribe": again, "Subscriber": fresh,
		"Publish":     pub.Publish("t", keyed("k", "1")...),
		"new Publish": bus.Publisher().Publish("t", keyed("k", "1")...),
	} {
		if !errors.Is(err, kafkabus.ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
