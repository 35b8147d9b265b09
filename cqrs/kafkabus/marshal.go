package kafkabus

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

const (
	headerID   = cqrs.HeaderID  // CloudEvents' name of the message's UUID
	headerKey  = cqrs.HeaderKey // metadata that becomes the record's key
	headerType = cqrs.HeaderType
	headerKind = cqrs.HeaderKind

	debeziumHeaders = "headers" // a JSON object, as EventRouter places a column
	debeziumID      = "id"
)

// Metadata of messages made by [MarkUndecodable].
const (
	// TypeUndecodable is the message type (ce_type). No catalog knows it and it is marked as a command,
	// so a processor keeps it as a dead letter.
	TypeUndecodable = "surge.undecodable"
	// HeaderUndecodable holds the reason.
	HeaderUndecodable = "surge-undecodable"
)

// Marshaler maps messages to records and back. Metadata are headers, the UUID is the header ce_id and
// metadata ce_partitionkey is the record's key, so a message in the envelope of package cqrs is a
// CloudEvent in binary mode. It understands and is understood by watermill-kafka's DefaultMarshaler,
// whose UUID header it also writes, and reads what Debezium's EventRouter writes from an outbox table.
// A record without an id gets one made of its topic, partition and offset, the same on every delivery; a topic that is
// deleted and made anew gives the same ids to other records, which an inbox that remembers the first ones skips.
// Metadata named "headers" has no place in such a record: it is read as Debezium's, so do not use that name.
type Marshaler struct{}

var _ kafka.MarshalerUnmarshaler = Marshaler{}

// Marshal never fails.
func (Marshaler) Marshal(topic string, msg *message.Message) (*sarama.ProducerMessage, error) {
	n, size := 2, len(headerID)+len(kafka.UUIDHeaderKey)+2*len(msg.UUID)
	for k, v := range msg.Metadata {
		n, size = n+1, size+len(k)+len(v)
	}
	w := headerWriter{make([]sarama.RecordHeader, 0, n), make([]byte, 0, size)}
	w.add(headerID, msg.UUID)
	w.add(kafka.UUIDHeaderKey, msg.UUID)
	for k, v := range msg.Metadata {
		if k != headerID && k != kafka.UUIDHeaderKey {
			w.add(k, v)
		}
	}
	rec := &sarama.ProducerMessage{Topic: topic, Value: sarama.ByteEncoder(msg.Payload), Headers: w.headers}
	if key := msg.Metadata[headerKey]; key != "" {
		rec.Key = sarama.StringEncoder(key)
	}
	return rec, nil
}

// headerWriter puts the text of all headers into one piece of memory, which is large enough.
type headerWriter struct {
	headers []sarama.RecordHeader
	text    []byte
}

func (w *headerWriter) add(key, value string) {
	w.headers = append(w.headers, sarama.RecordHeader{Key: w.bytes(key), Value: w.bytes(value)})
}

func (w *headerWriter) bytes(s string) []byte {
	from := len(w.text)
	w.text = append(w.text, s...)
	return w.text[from:len(w.text):len(w.text)]
}

// Unmarshal fails only when a header named "headers" is there and is no JSON object of strings.
// A record's key becomes metadata ce_partitionkey unless a header says otherwise.
func (Marshaler) Unmarshal(rec *sarama.ConsumerMessage) (*message.Message, error) {
	meta := metadata(rec)
	if expand, ok := meta[debeziumHeaders]; ok {
		if err := expandHeaders(meta, expand); err != nil {
			return nil, err
		}
	}
	id := meta[headerID]
	if id == "" {
		id = meta[kafka.UUIDHeaderKey]
	}
	if id == "" {
		id = positionID(rec)
	}
	delete(meta, headerID)
	delete(meta, kafka.UUIDHeaderKey)
	if len(rec.Key) > 0 && meta[headerKey] == "" {
		meta[headerKey] = string(rec.Key)
	}
	msg := message.NewMessage(id, rec.Value)
	msg.Metadata = meta
	return msg, nil
}

// metadata makes strings of the headers: one for all values, none for names that are usual.
func metadata(rec *sarama.ConsumerMessage) message.Metadata {
	size := 0
	for _, h := range rec.Headers {
		size += len(h.Value)
	}
	var all strings.Builder
	all.Grow(size)
	for _, h := range rec.Headers {
		all.Write(h.Value)
	}
	text := all.String()
	meta := make(message.Metadata, len(rec.Headers)+1)
	for _, h := range rec.Headers {
		name, ok := usual[string(h.Key)]
		if !ok {
			name = string(h.Key)
		}
		meta[name], text = text[:len(h.Value)], text[len(h.Value):]
	}
	return meta
}

// usual holds the names of headers that nearly every record has.
var usual = func() map[string]string {
	names := map[string]string{}
	for _, n := range []string{
		headerID, headerKey, headerType, headerKind, kafka.UUIDHeaderKey, cqrs.HeaderSource, cqrs.HeaderTime,
		cqrs.HeaderSpecVersion, cqrs.HeaderVersion, cqrs.HeaderContentType, cqrs.HeaderCorrelation,
		cqrs.HeaderCausation, cqrs.HeaderConversation, cqrs.HeaderTraceParent, cqrs.HeaderTraceState,
	} {
		names[n] = n
	}
	return names
}()

// expandHeaders replaces Debezium's headers by those that the outbox row held.
func expandHeaders(meta message.Metadata, text string) error {
	var inner map[string]string
	if err := json.Unmarshal([]byte(unquote(text)), &inner); err != nil {
		return fmt.Errorf("kafkabus: header %q: %w", debeziumHeaders, err)
	}
	delete(meta, debeziumHeaders)
	if id, ok := meta[debeziumID]; ok {
		delete(meta, debeziumID)
		if meta[headerID] == "" {
			meta[headerID] = unquote(id)
		}
	}
	for k, v := range inner {
		if _, ok := meta[k]; !ok {
			meta[k] = v
		}
	}
	return nil
}

// unquote undoes Connect's JSON header converter, which writes strings as JSON.
func unquote(s string) string {
	if len(s) > 1 && s[0] == '"' {
		if plain, err := strconv.Unquote(s); err == nil {
			return plain
		}
		var plain string
		if json.Unmarshal([]byte(s), &plain) == nil {
			return plain
		}
	}
	return s
}

// positionID names a record by its place.
func positionID(rec *sarama.ConsumerMessage) string {
	return rec.Topic + "/" + strconv.Itoa(int(rec.Partition)) + "/" + strconv.FormatInt(rec.Offset, 10)
}

// MarkUndecodable makes a message of a record that the unmarshaler refused: its type is
// [TypeUndecodable], its id is the record's place, payload and readable headers are kept.
func MarkUndecodable(rec *sarama.ConsumerMessage, reason error) *message.Message {
	msg := message.NewMessage(positionID(rec), rec.Value)
	msg.Metadata = metadata(rec)
	if len(rec.Key) > 0 {
		msg.Metadata[headerKey] = string(rec.Key)
	}
	msg.Metadata[headerType] = TypeUndecodable
	msg.Metadata[headerKind] = "command"
	msg.Metadata[HeaderUndecodable] = reason.Error()
	return msg
}
