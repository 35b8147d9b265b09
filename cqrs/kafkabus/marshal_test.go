package kafkabus_test

import (
	"context"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"pgregory.net/rapid"

	"github.com/surge-go/surge/cqrs/kafkabus"
)

// received is the record as a consumer gets it.
func received(t rapid.TB, p *sarama.ProducerMessage) *sarama.ConsumerMessage {
	t.Helper()
	rec := &sarama.ConsumerMessage{Topic: p.Topic, Partition: 3, Offset: 7}
	var err error
	if p.Key != nil {
		if rec.Key, err = p.Key.Encode(); err != nil {
			t.Fatal(err)
		}
	}
	if rec.Value, err = p.Value.Encode(); err != nil {
		t.Fatal(err)
	}
	for _, h := range p.Headers {
		rec.Headers = append(rec.Headers, &h)
	}
	return rec
}

func record(headers ...string) *sarama.ConsumerMessage {
	rec := &sarama.ConsumerMessage{Topic: "t", Partition: 3, Offset: 7, Value: []byte("v")}
	for i := 0; i < len(headers); i += 2 {
		rec.Headers = append(rec.Headers, &sarama.RecordHeader{Key: []byte(headers[i]), Value: []byte(headers[i+1])})
	}
	return rec
}

func anyMessage(t *rapid.T) *message.Message {
	m := message.NewMessage(rapid.StringN(1, 40, -1).Draw(t, "id"), rapid.SliceOf(rapid.Byte()).Draw(t, "payload"))
	name := rapid.StringMatching(`x-[a-z]{1,8}|ce_type|ce_partitionkey|traceparent`)
	for k, v := range rapid.MapOf(name, rapid.StringN(1, 20, -1)).Draw(t, "metadata") {
		m.Metadata[k] = v
	}
	return m
}

func TestMarshalerKeepsMessages(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		sent := anyMessage(t)
		rec, err := kafkabus.Marshaler{}.Marshal("t", sent)
		if err != nil {
			t.Fatal(err)
		}
		key := ""
		if rec.Key != nil {
			b, _ := rec.Key.Encode()
			key = string(b)
		}
		if key != sent.Metadata["ce_partitionkey"] {
			t.Fatalf("key %q", key)
		}
		got, err := kafkabus.Marshaler{}.Unmarshal(received(t, rec))
		if err != nil || !got.Equals(sent) {
			t.Fatalf("%v: got %+v, sent %+v", err, got, sent)
		}
	})
}

func TestMarshalerUnderstandsWatermillKafka(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		sent := anyMessage(t)
		rec, err := kafka.DefaultMarshaler{}.Marshal("t", sent)
		if err != nil {
			t.Fatal(err)
		}
		got, err := kafkabus.Marshaler{}.Unmarshal(received(t, rec))
		if err != nil || !got.Equals(sent) {
			t.Fatalf("%v: got %+v, sent %+v", err, got, sent)
		}
		if rec, err = (kafkabus.Marshaler{}).Marshal("t", sent); err != nil {
			t.Fatal(err)
		}
		got, err = kafka.DefaultMarshaler{}.Unmarshal(received(t, rec))
		if err != nil || got.UUID != sent.UUID || got.Metadata["ce_id"] != sent.UUID {
			t.Fatalf("%v: got %+v, sent %+v", err, got, sent)
		}
		// A program that passes on what it got from us can do so.
		if _, err := (kafka.DefaultMarshaler{}).Marshal("t", got); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRule17_MarshalerUnderstandsDebezium(t *testing.T) {
	t.Parallel()
	for name, rec := range map[string]*sarama.ConsumerMessage{
		"plain headers": record("id", "m-1", "headers", `{"ce_type":"orders.placed","traceparent":"00-1"}`),
		"JSON headers": record("id", `"m-1"`,
			"headers", `"{\"ce_type\":\"orders.placed\",\"traceparent\":\"00-1\"}"`),
		"id among the headers": record("headers", `{"ce_id":"m-1","ce_type":"orders.placed","traceparent":"00-1"}`),
	} {
		rec.Key = []byte("order-7")
		got, err := kafkabus.Marshaler{}.Unmarshal(rec)
		want := message.NewMessage("m-1", []byte("v"))
		want.Metadata = message.Metadata{
			"ce_type": "orders.placed", "traceparent": "00-1", "ce_partitionkey": "order-7",
		}
		if err != nil || !got.Equals(want) {
			t.Errorf("%s: %v, %+v", name, err, got)
		}
	}
}

func TestUnmarshalEdges(t *testing.T) {
	t.Parallel()
	got, err := kafkabus.Marshaler{}.Unmarshal(record())
	if err != nil || got.UUID != "t/3/7" || len(got.Metadata) != 0 {
		t.Errorf("bare record: %v, %+v", err, got)
	}
	got, err = kafkabus.Marshaler{}.Unmarshal(record("id", "theirs", "ce_id", "ours"))
	if err != nil || got.UUID != "ours" || got.Metadata["id"] != "theirs" {
		t.Errorf("a header named id is the application's own without Debezium: %v, %+v", err, got)
	}
	for _, bad := range []string{"", "{", "[]", `{"a":1}`} {
		if got, err := (kafkabus.Marshaler{}).Unmarshal(record("headers", bad)); err == nil {
			t.Errorf("headers %q: %+v", bad, got)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add("ce_id", "1", "headers", `{"a":"b"}`, []byte("key"))
	f.Add("id", `"x`, "headers", `"{}"`, []byte(nil))
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string, key []byte) {
		rec := record(k1, v1, k2, v2)
		rec.Key = key
		msg, err := kafkabus.Marshaler{}.Unmarshal(rec)
		if err != nil {
			msg = kafkabus.MarkUndecodable(rec, err)
		}
		if msg.UUID == "" || string(msg.Payload) != "v" {
			t.Fatalf("%+v", msg)
		}
		if _, err := (kafkabus.Marshaler{}).Marshal("t", msg); err != nil {
			t.Fatal(err)
		}
	})
}

func TestStockProgramsOnTheOtherSide(t *testing.T) {
	onKafka(t, func(t *testing.T, brokers []string) {
		bus := open(t, brokers, quickConfig())
		stockPub, err := kafka.NewPublisher(kafka.PublisherConfig{Brokers: brokers}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer closed(t, stockPub)
		stockSub, err := kafka.NewSubscriber(kafka.SubscriberConfig{
			Brokers: brokers, ConsumerGroup: watermill.NewShortUUID(), OverwriteSaramaConfig: quick(),
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer closed(t, stockSub)

		ours, theirs := topic(t, bus, 1), topic(t, bus, 1)
		publish(t, bus, ours, keyed("k", "from us")...)
		stock, err := stockSub.Subscribe(t.Context(), ours)
		if err != nil {
			t.Fatal(err)
		}
		got := read(t, stock, 1)[0]
		if got.UUID != "from us" || got.Metadata["ce_partitionkey"] != "k" || string(got.Payload) != "from us" {
			t.Fatalf("%+v", got)
		}
		got.Ack()

		if err := stockPub.Publish(theirs, keyed("", "from them")...); err != nil {
			t.Fatal(err)
		}
		back := read(t, subscribe(t, subscriber(t, bus, watermill.NewShortUUID()), theirs), 1)[0]
		if back.UUID != "from them" || len(back.Metadata) != 0 || string(back.Payload) != "from them" {
			t.Fatalf("%+v", back)
		}
		back.Ack()
	})
}

func TestPublishNeedsNoContext(t *testing.T) {
	t.Parallel()
	bus := open(t, fake(t).ListenAddrs(), quickConfig())
	name := topic(t, bus, 1)
	pub := bus.Publisher()
	with := keyed("k", "with")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	with[0].SetContext(ctx)
	for _, msgs := range [][]*message.Message{nil, keyed("k", "without"), with} {
		if err := pub.Publish(name, msgs...); err != nil {
			t.Fatal(err)
		}
	}
	wantIDs(t, read(t, subscribe(t, subscriber(t, bus, "g"), name), 2), "without", "with")
}
