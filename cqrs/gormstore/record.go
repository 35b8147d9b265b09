package gormstore

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/surge-go/surge/cqrs"
)

// recordRow holds the columns that parked messages and dead letters have in common.
type recordRow struct {
	Grp, ID, Queue, Topic, Type, MsgKey string
	Payload                             []byte
	Metadata, Failures                  string
	Attempt                             int
}

const recordColumns = "grp,id,queue,topic,type,msg_key,payload,metadata,failures,attempt"

func (r recordRow) record() (cqrs.Record, error) {
	rec := cqrs.Record{
		Group: r.Grp, ID: r.ID, Queue: r.Queue, Topic: r.Topic, Type: r.Type, Key: r.MsgKey,
		Payload: r.Payload, Attempt: r.Attempt,
	}
	var err error
	if rec.Metadata, err = decodeMetadata(r.Metadata); err != nil {
		return rec, fmt.Errorf("gormstore: message %s: decode the metadata: %w", r.ID, err)
	}
	if err := json.Unmarshal([]byte(r.Failures), &rec.Failures); err != nil {
		return rec, fmt.Errorf("gormstore: message %s: decode the failures: %w", r.ID, err)
	}
	return rec, nil
}

// recordArgs are the values of recordColumns.
func recordArgs(rec *cqrs.Record) ([]any, error) {
	metadata, failures, err := texts(rec)
	if err != nil {
		return nil, err
	}
	return []any{
		rec.Group, rec.ID, rec.Queue, rec.Topic, rec.Type, rec.Key, payloadOf(rec), metadata, failures, rec.Attempt,
	}, nil
}

func texts(rec *cqrs.Record) (metadata, failures string, err error) {
	m, err := encodeMetadata(rec.Metadata)
	if err != nil {
		return "", "", fmt.Errorf("gormstore: message %s: encode the metadata: %w", rec.ID, err)
	}
	f, err := json.Marshal(rec.Failures)
	if err != nil {
		return "", "", fmt.Errorf("gormstore: message %s: encode the failures: %w", rec.ID, err)
	}
	return string(m), string(f), nil
}

// encodeMetadata writes a JSON object, or, where something is no text and JSON would replace it, pairs in base64.
func encodeMetadata(metadata map[string]string) ([]byte, error) {
	text := true
	for k, v := range metadata {
		text = text && utf8.ValidString(k) && utf8.ValidString(v)
	}
	if text {
		return json.Marshal(metadata)
	}
	pairs := make([][2][]byte, 0, len(metadata))
	for k, v := range metadata {
		pairs = append(pairs, [2][]byte{[]byte(k), []byte(v)})
	}
	return json.Marshal(pairs)
}

func decodeMetadata(text string) (metadata map[string]string, err error) {
	if !strings.HasPrefix(text, "[") {
		err = json.Unmarshal([]byte(text), &metadata)
		return metadata, err
	}
	var pairs [][2][]byte
	err = json.Unmarshal([]byte(text), &pairs)
	metadata = make(map[string]string, len(pairs))
	for _, p := range pairs {
		metadata[string(p[0])] = string(p[1])
	}
	return metadata, err
}

// payloadOf is never nil: the column is NOT NULL, and a message without payload is a message.
func payloadOf(rec *cqrs.Record) []byte {
	if rec.Payload == nil {
		return []byte{}
	}
	return rec.Payload
}
