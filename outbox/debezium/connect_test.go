package debezium_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"testing"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/cqrs/kafkabus"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
)

var errUndone = errors.New("undone")

// A specimen is a message that somebody might get wrong.
type specimen struct {
	topic    int
	key      string
	payload  []byte
	metadata message.Metadata
}

// specimens returns messages of all sorts, and many ordinary ones.
func specimens() []specimen {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	list := []specimen{
		{key: "ordinary", payload: []byte(`{"n":1}`), metadata: message.Metadata{
			"ce_type": "order.placed", "ce_version": "1",
		}},
		{payload: []byte("no key")},
		{key: "empty payload"},
		{key: "nil payload", payload: nil},
		{key: "spaces", payload: []byte("   ")},
		{key: "binary", payload: all},
		{key: "no text", payload: []byte{0xff, 0xfe, 0, 0xc3, 0x28}},
		{key: "ключ-鍵-🔑", payload: []byte("päyløad"), metadata: message.Metadata{
			"unicode": "Ünïcødé ✓ 漢字 🚀", "имя": "значение", "escapes": "a\"b\\c/d\n\t\r<>& ",
		}},
		{key: `quo"ted\`, payload: []byte(`"`), metadata: message.Metadata{
			"empty": "", "json": `{"a":["b"]}`, "quoted": `"x"`,
		}},
		{key: "own names", payload: []byte("x"), metadata: message.Metadata{
			"id": "mine", "headers": "mine too", "type": "t",
		}},
		{topic: 1, key: "ordinary", payload: []byte("other topic")},
		{topic: 1, payload: []byte("no key either")},
	}
	for i := range 60 {
		list = append(list, specimen{
			topic: i % 3, key: "k" + strconv.Itoa(i%7), payload: []byte(strconv.Itoa(i)),
			metadata: message.Metadata{"n": strconv.Itoa(i), "traceparent": "00-4bf92f3577b34da6-00f067aa0ba902b7-01"},
		})
	}
	return list
}

// write publishes specimens in units of work, each followed by one that is undone.
func (s *service) write(topics, ids []string, list []specimen) {
	s.t.Helper()
	for i, sp := range list {
		err := s.unit.Do(s.t.Context(), func(ctx context.Context) error {
			return s.publish(ctx, topics[sp.topic], ids[i], sp)
		})
		must(s.t, err)
		err = s.unit.Do(s.t.Context(), func(ctx context.Context) error {
			// The statement makes the undone rows reach the log.
			if err := uow.DB(ctx).Exec("UPDATE outbox_meta SET value = value").Error; err != nil {
				return err
			}
			return errors.Join(s.publish(ctx, topics[sp.topic], "undone-"+ids[i], sp), errUndone)
		})
		if !errors.Is(err, errUndone) {
			s.t.Fatal(err)
		}
		tx := s.db.Begin()
		m := message.NewMessage("undone-tx-"+ids[i], sp.payload)
		must(s.t, s.box.PublishTx(tx, topics[sp.topic], m))
		must(s.t, tx.Rollback().Error)
	}
}

func (s *service) publish(ctx context.Context, topic, id string, sp specimen) error {
	m := message.NewMessage(id, sp.payload)
	maps.Copy(m.Metadata, sp.metadata)
	if sp.key != "" {
		m.Metadata.Set(outbox.HeaderKey, sp.key)
	}
	m.SetContext(ctx)
	return s.box.Publish(topic, m)
}

// TestRule17_DebeziumPublishesWhatTheRelayWould has two services publish the same messages to the same topics, one
// by a relay, the other by Debezium, half of them from the connector's snapshot, and compares the records.
func TestRule17_DebeziumPublishesWhatTheRelayWould(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	prefix := "surgetest." + random()
	topics := []string{prefix + ".orders", prefix + ".stock-levels", prefix + ".third_one"}
	c.topics(5, topics...)
	list := specimens()
	ids, want := make([]string, len(list)), map[string]int{}
	for i := range list {
		ids[i] = fmt.Sprintf("%s-%d-ü", prefix, i)
		want[topics[list[i].topic]]++
	}

	ours := newService(t)
	ours.write(topics, ids, list)
	relay, err := outbox.NewRelay(ours.box, c.bus.Publisher(), outbox.RelayConfig{UnitOfWork: ours.unit})
	must(t, err)
	stop := ours.run(relay.Run)
	must(t, relay.Drain(t.Context()))
	stop()

	sent := map[string][]*sarama.ConsumerMessage{}
	ends := map[string]map[int32]int64{}
	for topic, n := range want {
		sent[topic] = c.read(topic, nil, n)
		ends[topic] = c.ends(topic)
	}

	theirs := newService(t)
	half := len(list) / 2
	theirs.write(topics, ids[:half], list[:half])
	c.start(theirs)
	theirs.write(topics, ids[half:], list[half:])
	for topic, n := range want {
		compare(t, topic, sent[topic], c.read(topic, ends[topic], n))
	}
	pruner, _ := theirs.pruner()
	must(t, pruner.Drain(t.Context()))
	if n := theirs.depth("outbox"); n != 0 {
		t.Errorf("%d rows stay in the table", n)
	}
	for topic, n := range want { // whatever Debezium would make of the deletes is behind
		if got := len(c.read(topic, ends[topic], n)); got != n {
			t.Errorf("%s: %d records after all, want %d", topic, got, n)
		}
	}
}

// compare compares the records of one topic.
func compare(t *testing.T, topic string, ours, theirs []*sarama.ConsumerMessage) {
	t.Helper()
	if len(ours) != len(theirs) {
		t.Errorf("%s: %d records of Debezium, %d of the relay", topic, len(theirs), len(ours))
	}
	byID := map[string]*sarama.ConsumerMessage{}
	for _, rec := range theirs {
		byID[header(rec, "ce_id")] = rec
	}
	for _, rec := range ours {
		id := header(rec, "ce_id")
		if other := byID[id]; other != nil {
			compareRecords(t, id, rec, other)
		} else {
			t.Errorf("%s: Debezium did not publish %q", topic, id)
		}
	}
	if a, b := inOrder(ours), inOrder(theirs); !maps.Equal(a, b) {
		t.Errorf("%s: order per key\nDebezium %v\nrelay    %v", topic, b, a)
	}
}

func compareRecords(t *testing.T, id string, ours, theirs *sarama.ConsumerMessage) {
	t.Helper()
	if len(ours.Key) > 0 && ours.Partition != theirs.Partition { // without a key the relay's is random
		t.Errorf("%s: partition %d, want %d", id, theirs.Partition, ours.Partition)
	}
	if string(ours.Key) != string(theirs.Key) {
		t.Errorf("%s: key %q, want %q", id, theirs.Key, ours.Key)
	}
	if string(ours.Value) != string(theirs.Value) || (ours.Value == nil) != (theirs.Value == nil) {
		t.Errorf("%s: payload %q, want %q", id, theirs.Value, ours.Value)
	}
	for _, name := range []string{"ce_id", "_watermill_message_uuid"} {
		if got, want := header(theirs, name), header(ours, name); got != want {
			t.Errorf("%s: header %s is %q, want %q", id, name, got, want)
		}
	}
	if names := headerNames(theirs); len(names) != 3 || names["headers"] != 1 {
		t.Errorf("%s: headers %v, want ce_id, _watermill_message_uuid and headers", id, names)
	}
	got, err := kafkabus.Marshaler{}.Unmarshal(theirs)
	if err != nil {
		t.Errorf("%s: Debezium's record: %v", id, err)
		return
	}
	want := outOf(ours)
	if got.UUID != want.UUID || string(got.Payload) != string(want.Payload) || !maps.Equal(got.Metadata, want.Metadata) {
		t.Errorf("%s: read as %s %q %v\nwant %s %q %v", id, got.UUID, got.Payload, got.Metadata,
			want.UUID, want.Payload, want.Metadata)
	}
}

// outOf returns the message that a relay's record was made of.
func outOf(rec *sarama.ConsumerMessage) *message.Message {
	m := message.NewMessage("", rec.Value)
	for _, h := range rec.Headers {
		switch name := string(h.Key); name {
		case "ce_id":
			m.UUID = string(h.Value)
		case "_watermill_message_uuid":
		default:
			m.Metadata[name] = string(h.Value)
		}
	}
	return m
}

// header returns the value of a header that must be there once.
func header(rec *sarama.ConsumerMessage, name string) string {
	value := "(none)"
	for _, h := range rec.Headers {
		if string(h.Key) != name {
			continue
		}
		if value != "(none)" {
			return "(several)"
		}
		value = string(h.Value)
	}
	return value
}

func headerNames(rec *sarama.ConsumerMessage) map[string]int {
	names := map[string]int{}
	for _, h := range rec.Headers {
		names[string(h.Key)]++
	}
	return names
}

// inOrder returns the ids of each key's records in their order.
func inOrder(list []*sarama.ConsumerMessage) map[string]string {
	order := map[string]string{}
	for _, rec := range list {
		if key := string(rec.Key); key != "" {
			order[key] += header(rec, "ce_id") + " "
		}
	}
	return order
}
