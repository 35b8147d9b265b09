package kafkabus_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/surge-go/surge/cqrs/kafkabus"
)

// checker is what a processor asks before it starts.
type checker interface {
	Check(ctx context.Context, handled bool, topics ...string) error
}

func check(t *testing.T, sub message.Subscriber, handled bool, topics ...string) error {
	t.Helper()
	return sub.(checker).Check(t.Context(), handled, topics...)
}

// silent fails if anything arrives.
func silent(t *testing.T, in <-chan *message.Message) {
	t.Helper()
	select {
	case m, ok := <-in:
		if ok {
			t.Fatalf("%s arrived", m.UUID)
		}
	case <-time.After(300 * time.Millisecond):
	}
}

func TestRule32_AMemberBeginsAtItsPosition(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		bus := open(t, brokers, quickConfig())
		name, group := topic(t, bus, 1), watermill.NewShortUUID()
		publish(t, bus, name, keyed("k", numbered(10)...)...)

		var at atomic.Int64
		at.Store(4)
		failing := errors.New("the checkpoints cannot be read")
		asked := make(chan error, 100)
		member := func() (message.Subscriber, <-chan *message.Message) {
			sub, err := bus.SubscriberAt(group, func(ctx context.Context, topic string, p int32) (int64, bool, error) {
				if ctx.Err() != nil || topic != name || p != 0 {
					t.Errorf("asked for %s/%d in a context that ended with %v", topic, p, ctx.Err())
				}
				offset := at.Load()
				if offset == -9 {
					asked <- failing
					return 0, false, failing
				}
				return offset, offset != -8, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return sub, subscribe(t, sub, name)
		}
		for _, step := range []struct {
			at   int64
			want []string
		}{
			{4, numbered(10)[4:]},           // forward, where nothing is committed
			{2, numbered(10)[2:]},           // back, though all is committed
			{-8, nil},                       // no position: the committed offset, so nothing is left
			{kafkabus.Oldest, numbered(10)}, //
			{kafkabus.Newest, nil},          //
			{9, numbered(10)[9:]},           //
			{10, nil},                       // the next record there will be
			{0, numbered(10)},               //
		} {
			at.Store(step.at)
			sub, in := member()
			got := read(t, in, len(step.want))
			wantIDs(t, got, step.want...)
			if len(got) == 0 {
				eventually(t, "the group is there", func() bool { return lagOf(t, bus, group, name) == 0 })
				silent(t, in)
			}
			ack(got...)
			closed(t, sub)
			if lag := lagOf(t, bus, group, name); lag != 0 {
				t.Fatalf("position %d: lag %d", step.at, lag)
			}
		}

		at.Store(-9)
		_, in := member()
		<-asked
		silent(t, in)
		at.Store(9)
		wantIDs(t, read(t, in, 1), "9") // asked again
	})
}

func lagOf(t *testing.T, bus *kafkabus.Bus, group, topic string) int64 {
	t.Helper()
	lag, err := bus.Lag(t.Context(), group, topic)
	if err != nil {
		t.Fatal(err)
	}
	return lag[topic]
}

func remove(t *testing.T, brokers []string, topic string, before int64) {
	t.Helper()
	admin := adminClient(t, brokers)
	defer closed(t, admin)
	if err := admin.DeleteRecords(topic, map[int32]int64{0: before}); err != nil {
		t.Fatal(err)
	}
}

func wantLost(t *testing.T, err error, offset, oldest, newest int64) {
	t.Helper()
	var lost *kafkabus.LostError
	if !errors.As(err, &lost) || lost.Oldest != oldest || lost.Newest != newest || !lost.OffsetsLost() {
		t.Fatalf("%v (%+v)", err, lost)
	}
	if lost.Offset != offset && (offset >= 0 || lost.Offset >= 0) {
		t.Fatalf("%v names offset %d, want %d", err, lost.Offset, offset)
	}
}

// committedAt3 returns a topic with ten records, of which those before 6 are gone, and groups that committed 3.
func committedAt3(t *testing.T, brokers []string, bus *kafkabus.Bus) (name string, groups [3]string) {
	name = topic(t, bus, 1)
	publish(t, bus, name, keyed("k", numbered(10)...)...)
	for i := range groups {
		groups[i] = watermill.NewShortUUID()
		sub := subscriber(t, bus, groups[i])
		if err := check(t, sub, false, name); err != nil {
			t.Fatalf("a new group: %v", err)
		}
		ack(read(t, subscribe(t, sub, name), 10)[:3]...)
		closed(t, sub)
	}
	remove(t, brokers, name, 6)
	return name, groups
}

func TestRule10_OffsetsThatAreGoneAreRefused(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		cfg := quickConfig()
		cfg.Subscriber.ReconnectRetrySleep = 10 * time.Millisecond
		bus := open(t, brokers, cfg)
		name, groups := committedAt3(t, brokers, bus)
		for _, handled := range []bool{false, true} {
			sub := subscriber(t, bus, groups[0])
			wantLost(t, check(t, sub, handled, name), 3, 6, 10)
			silent(t, subscribe(t, sub, name))
			closed(t, sub)
		}
		at := func(context.Context, string, int32) (int64, bool, error) { return 11, true, nil }
		sub, err := bus.SubscriberAt(groups[0], at)
		if err != nil {
			t.Fatal(err)
		}
		wantLost(t, check(t, sub, true, name), 11, 6, 10)

		cfg.Lost = kafkabus.FromOldest
		sub = subscriber(t, open(t, brokers, cfg), groups[1])
		if err := check(t, sub, true, name); err != nil {
			t.Fatal(err)
		}
		wantIDs(t, read(t, subscribe(t, sub, name), 4), numbered(10)[6:]...)

		cfg.Lost = kafkabus.FromNewest
		sub = subscriber(t, open(t, brokers, cfg), groups[2])
		in := subscribe(t, sub, name)
		eventually(t, "what is there is skipped", func() bool { return lagOf(t, bus, groups[2], name) == 0 })
		publish(t, bus, name, keyed("k", "10")...)
		wantIDs(t, read(t, in, 1), "10")
	})
}

func TestRule10_AGroupThatHasLostItsOffsetsIsRefused(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		bus := open(t, brokers, quickConfig())
		name, group := topic(t, bus, 1), watermill.NewShortUUID()
		publish(t, bus, name, keyed("k", "0")...)
		sub := subscriber(t, bus, group)
		wantLost(t, check(t, sub, true, name), -1, 0, 1)
		in := subscribe(t, sub, name)
		silent(t, in)
		closed(t, sub)

		// A member commits where it begins, so a group that has read nothing has lost nothing.
		empty, other := topic(t, bus, 2), watermill.NewShortUUID()
		sub = subscriber(t, bus, other)
		subscribe(t, sub, empty)
		eventually(t, "it has joined", func() bool {
			fresh := subscriber(t, bus, other)
			defer closed(t, fresh)
			return check(t, fresh, true, empty) == nil
		})
		closed(t, sub)
		sub = subscriber(t, bus, other)
		if err := check(t, sub, true, empty, name); err != nil {
			t.Fatalf("another topic of a group that has offsets is new to it: %v", err)
		}
		in = subscribe(t, sub, name)
		ack(read(t, in, 1)...)
	})
}

func TestRule33_WhatATopicHolds(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		bus := open(t, brokers, quickConfig())
		name := topic(t, bus, 1)
		publish(t, bus, name, keyed("k", numbered(10)...)...)
		is := func(f func(context.Context, string) (map[int32]int64, error), want map[int32]int64) {
			t.Helper()
			if got, err := f(t.Context(), name); err != nil || !maps.Equal(got, want) {
				t.Fatalf("%v, %v, want %v", got, err, want)
			}
		}
		is(bus.Earliest, map[int32]int64{0: 0})
		is(bus.Latest, map[int32]int64{0: 10})
		remove(t, brokers, name, 6)
		is(bus.Earliest, map[int32]int64{0: 6})
		if _, err := bus.Earliest(t.Context(), "not/there"); err == nil {
			t.Fatal("offsets of nothing")
		}
	})
}

func TestRule10_Retention(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		bus := open(t, brokers, quickConfig())
		for _, c := range []struct {
			topic     kafkabus.Topic
			want      time.Duration
			compacted bool
		}{
			{kafkabus.Topic{Retention: time.Hour}, time.Hour, false},
			{kafkabus.Topic{Retention: -1}, -1, false},
			{kafkabus.Topic{}, 7 * 24 * time.Hour, false},
			{kafkabus.Topic{Retention: time.Hour, Entries: map[string]string{"cleanup.policy": "compact"}}, -1, true},
			{
				kafkabus.Topic{Retention: time.Hour, Entries: map[string]string{"cleanup.policy": "compact,delete"}},
				time.Hour, true,
			},
		} {
			c.topic.Name = topicPrefix + watermill.NewShortUUID()
			if err := bus.CreateTopics(t.Context(), c.topic); err != nil {
				t.Fatal(err)
			}
			got, err := bus.Retention(t.Context(), c.topic.Name)
			compacted, err2 := bus.Compacted(t.Context(), c.topic.Name)
			if errors.Join(err, err2) != nil || got != c.want || compacted != c.compacted {
				t.Errorf("%+v: %v, compacted %v, %v, %v", c.topic, got, compacted, err, err2)
			}
		}
		if _, err := bus.Retention(t.Context(), "not/there"); err == nil {
			t.Fatal("the retention of nothing")
		}
	})
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	t.Parallel()
	all := []error{
		&kafkabus.LostError{Group: "g", Topic: "t", Partition: 1, Offset: 3, Oldest: 6, Newest: 10},
		&kafkabus.LostError{Group: "g", Topic: "t", Partition: 1, Offset: -3},
		kafkabus.Config{Lost: 7}.Validate(),
	}
	if slices.ContainsFunc(all, func(err error) bool { return err == nil || len(err.Error()) < 40 }) {
		t.Fatal(all)
	}
}

// The broker that takes a group over may answer before it knows of the group's offsets.
func TestRule10_AGroupWhoseOffsetsAreNotThereYetIsNotRefused(t *testing.T) {
	t.Parallel()
	cluster := fake(t)
	bus := open(t, cluster.ListenAddrs(), quickConfig())
	name := topic(t, bus, 1)
	publish(t, bus, name, keyed("k", "0")...)
	sub := subscriber(t, bus, "g")
	ack(read(t, subscribe(t, sub, name), 1)...)
	closed(t, sub)
	var asked atomic.Int32
	cluster.ControlKey(int16(kmsg.OffsetFetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if asked.Add(1) > 3 {
			return nil, nil, false
		}
		return req.ResponseKind(), nil, true // no offsets, and no error
	})
	if err := check(t, subscriber(t, bus, "g"), true, name); err != nil || asked.Load() < 4 {
		t.Fatalf("%v after %d looks", err, asked.Load())
	}
}

// Nothing is asked for without a pause, whatever the pause is set to.
func TestReconnectRetrySleepIsAtLeast20ms(t *testing.T) {
	t.Parallel()
	cfg := quickConfig()
	cfg.Subscriber.ReconnectRetrySleep = kafka.NoSleep
	bus := open(t, fake(t).ListenAddrs(), cfg)
	name := topic(t, bus, 1)
	start := time.Now()
	if err := check(t, subscriber(t, bus, "g"), true, name); err == nil {
		t.Fatal("a group that has lost its offsets is accepted")
	}
	if d := time.Since(start); d < 9*20*time.Millisecond {
		t.Errorf("ten looks in %v", d)
	}
}

// A group that had offsets when its member last joined is no new one, though nobody said that it has handled messages.
func TestRule10_AGroupThatHadOffsetsIsNotTakenForANewOne(t *testing.T) {
	t.Parallel()
	cluster := fake(t)
	cfg := quickConfig()
	cfg.Subscriber.ReconnectRetrySleep = 20 * time.Millisecond
	bus := open(t, cluster.ListenAddrs(), cfg)
	name := topic(t, bus, 1)
	publish(t, bus, name, keyed("k", "0", "1", "2")...)
	sub := subscriber(t, bus, "g")
	in := subscribe(t, sub, name)
	ack(read(t, in, 3)...)
	eventually(t, "the offsets are committed", func() bool { return lagOf(t, bus, "g", name) == 0 })
	other := topic(t, bus, 1)
	joined := subscribe(t, sub, other)
	publish(t, bus, other, keyed("k", "joined")...)
	ack(read(t, joined, 1)...) // so the member has joined anew
	publish(t, bus, name, keyed("k", "3")...)
	got := read(t, in, 1)
	wantIDs(t, got, "3")
	ack(got...)
	eventually(t, "the offsets are committed", func() bool { return lagOf(t, bus, "g", name) == 0 })

	var lost atomic.Bool
	var asked atomic.Int32
	lost.Store(true)
	cluster.ControlKey(int16(kmsg.OffsetFetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if !lost.Load() || req.(*kmsg.OffsetFetchRequest).Topics != nil {
			return nil, nil, false
		}
		asked.Add(1)
		return req.ResponseKind(), nil, true // no offsets, and no error
	})
	subscribe(t, sub, topic(t, bus, 1))
	eventually(t, "the member looks for its offsets", func() bool { return asked.Load() > 0 })
	silent(t, in)
	lost.Store(false)
	publish(t, bus, name, keyed("k", "4")...)
	wantIDs(t, read(t, in, 1), "4")
}

// Who keeps the positions may panic: the member reads nothing, and asks again.
func TestRule32_APositionThatPanicsIsAskedForAgain(t *testing.T) {
	t.Parallel()
	cfg := quickConfig()
	cfg.Subscriber.ReconnectRetrySleep = 20 * time.Millisecond
	bus := open(t, fake(t).ListenAddrs(), cfg)
	name := topic(t, bus, 1)
	publish(t, bus, name, keyed("k", "0")...)
	var asked atomic.Int32
	sub, err := bus.SubscriberAt("g", func(context.Context, string, int32) (int64, bool, error) {
		if asked.Add(1) < 3 {
			panic("no luck")
		}
		return 0, true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wantIDs(t, read(t, subscribe(t, sub, name), 1), "0")
}
