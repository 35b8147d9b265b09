package kafkabus

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
)

const (
	headerID   = "ce_id"           // CloudEvents' name of the message's UUID
	headerKey  = "ce_partitionkey" // metadata that becomes the record's key
	headerType = "ce_type"
	headerKind = "ce_kind"

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
// A record without an id gets one made of its topic, partition and offset, the same on every delivery.
type Marshaler struct{}

var _ kafka.MarshalerUnmarshaler = Marshaler{}

// Marshal never fails.
func (Marshaler) Marshal(topic string, msg *message.Message) (*sarama.ProducerMessage, error) {
	headers := make([]sarama.RecordHeader, 0, len(msg.Metadata)+2)
	id := []byte(msg.UUID)
	headers = append(headers,
		sarama.RecordHeader{Key: []byte(headerID), Value: id},
		sarama.RecordHeader{Key: []byte(kafka.UUIDHeaderKey), Value: id})
	for k, v := range msg.Metadata {
		if k != headerID && k != kafka.UUIDHeaderKey {
			headers = append(headers, sarama.RecordHeader{Key: []byte(k), Value: []byte(v)})
		}
	}
	rec := &sarama.ProducerMessage{Topic: topic, Value: sarama.ByteEncoder(msg.Payload), Headers: headers}
	if key := msg.Metadata[headerKey]; key != "" {
		rec.Key = sarama.StringEncoder(key)
	}
	return rec, nil
}

// Unmarshal fails only when a header named "headers" is there and is no JSON object of strings.
// A record's key becomes metadata ce_partitionkey unless a header says otherwise.
func (Marshaler) Unmarshal(rec *sarama.ConsumerMessage) (*message.Message, error) {
	meta := make(message.Metadata, len(rec.Headers)+1)
	for _, h := range rec.Headers {
		meta[string(h.Key)] = string(h.Value)
	}
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
	for _, h := range rec.Headers {
		msg.Metadata[string(h.Key)] = string(h.Value)
	}
	if len(rec.Key) > 0 {
		msg.Metadata[headerKey] = string(rec.Key)
	}
	msg.Metadata[headerType] = TypeUndecodable
	msg.Metadata[headerKind] = "command"
	msg.Metadata[HeaderUndecodable] = reason.Error()
	return msg
}
