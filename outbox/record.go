package outbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"
)

const (
	// Shards is the number of virtual shards. It is recorded in the database, since the shard of a key decides
	// which relay publishes it.
	Shards = 64

	// HeaderKey is the metadata name of a message's key (CloudEvents' partitionkey): messages with the same topic
	// and key are published in the order in which they were committed. Without it a message has no order. At most 255
	// characters.
	HeaderKey = "ce_partitionkey"
	// HeaderType is the metadata name of a message's type; it fills the column of that name. At most 255 characters.
	HeaderType = "ce_type"
	// HeaderDeliverAt is the metadata name of the time before which a message is not published, in
	// [time.RFC3339Nano], by the database's clock. The message gets its place in the order when that time has come, be
	// it at once. The outbox removes it.
	HeaderDeliverAt = "surge-deliver-at"
)

// A record is a message as a row.
type record struct {
	seq     int64
	shard   int
	id      string
	topic   string
	key     string
	typ     string
	headers string
	payload []byte
	due     int64 // microseconds since 1970; 0: it is not scheduled

	// Known to relays only.
	epoch    int64 // of the lease under which it was read
	attempts int
}

// columns are those that a message keeps in every table.
const columns = "shard, id, topic, aggregateid, type, headers, payload"

func newRecord(topic string, m *message.Message) (record, error) {
	r := record{
		id: m.UUID, topic: topic, payload: m.Payload,
		key: m.Metadata[HeaderKey], typ: m.Metadata[HeaderType],
	}
	if topic == "" {
		return r, fmt.Errorf("outbox: message %s has no topic", m.UUID)
	}
	for _, f := range [...]struct{ name, text string }{
		{"id", r.id}, {"topic", r.topic}, {HeaderKey, r.key}, {HeaderType, r.typ},
	} {
		if err := storable(f.text); err != nil {
			return r, fmt.Errorf("outbox: message %q: %s %w", m.UUID, f.name, err)
		}
	}
	if at, ok := m.Metadata[HeaderDeliverAt]; ok {
		t, err := time.Parse(time.RFC3339Nano, at)
		if err != nil {
			return r, fmt.Errorf("outbox: message %s: %s: %w", m.UUID, HeaderDeliverAt, err)
		}
		r.due = max(t.UnixMicro(), 1)
	}
	if r.payload == nil {
		r.payload = []byte{}
	}
	headers, err := appendHeaders(make([]byte, 0, 512), m.Metadata)
	if err != nil {
		return r, fmt.Errorf("outbox: message %q: %w", m.UUID, err)
	}
	r.headers = string(headers)
	r.shard = ShardOf(r.key)
	if r.key == "" {
		r.shard = ShardOf(r.id)
	}
	return r, nil
}

// maxText is how many characters the columns for ids, topics, keys and types take.
const maxText = 255

var errNotUTF8 = errors.New("is not UTF-8")

// storable says why a database would not take a text, or would cut it.
func storable(s string) error {
	switch {
	case !utf8.ValidString(s):
		return errNotUTF8
	case strings.IndexByte(s, 0) >= 0:
		return errors.New("holds a NUL")
	case len(s) > maxText && utf8.RuneCountInString(s) > maxText:
		return fmt.Errorf("has %d characters, at most %d", utf8.RuneCountInString(s), maxText)
	}
	return nil
}

// ShardOf returns the shard of a key: FNV-1a, 32 bits, modulo [Shards].
func ShardOf(key string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return int(h.Sum32() % Shards)
}

// lane names what has to stay in order: a key of a topic. A message without a key has a lane of its own.
func (r *record) lane() lane {
	if r.key == "" {
		return lane{r.topic, r.id, true}
	}
	return lane{r.topic, r.key, false}
}

type lane struct {
	topic, key string
	lone       bool
}

// message returns what the publisher gets.
func (r *record) message(ctx context.Context) (*message.Message, error) {
	headers, err := parseHeaders(r.headers)
	if err != nil {
		return nil, fmt.Errorf("outbox: headers of message %s: %w", r.id, err)
	}
	m := message.NewMessage(r.id, r.payload)
	m.Metadata = headers
	m.SetContext(ctx)
	return m, nil
}

// scan reads seq and columns, then more.
func (r *record) scan(rows *sql.Rows, more ...any) error {
	to := []any{&r.seq, &r.shard, &r.id, &r.topic, &r.key, &r.typ, &r.headers, &r.payload}
	if err := rows.Scan(append(to, more...)...); err != nil {
		return err
	}
	return checkShard(r.shard)
}

// checkShard refuses what this module has not written.
func checkShard(shard int) error {
	if shard < 0 || shard >= Shards {
		return fmt.Errorf("%w: a row is in shard %d", ErrShards, shard)
	}
	return nil
}

// wanted are the columns that a relay publishes.
const wanted = "seq, shard, id, topic, aggregateid, headers, payload"

// A scanner reads rows of wanted columns without allocating more than they hold.
type scanner struct {
	rec        record
	seq, shard integer
	to         []any
}

func newScanner() *scanner {
	s := &scanner{}
	s.to = []any{&s.seq, &s.shard, &s.rec.id, &s.rec.topic, &s.rec.key, &s.rec.headers, &s.rec.payload}
	return s
}

// scan reads a row; the record is overwritten by the next one.
func (s *scanner) scan(rows *sql.Rows) (*record, error) {
	s.rec.payload = nil
	if err := rows.Scan(s.to...); err != nil {
		return &s.rec, err
	}
	s.rec.seq, s.rec.shard = int64(s.seq), int(s.shard)
	return &s.rec, checkShard(s.rec.shard)
}

// An integer scans what drivers return for one; database/sql would take the way over text, or reflection.
type integer int64

// Scan implements [sql.Scanner].
func (n *integer) Scan(src any) error {
	if v, ok := src.(int64); ok {
		*n = integer(v)
		return nil
	}
	v, err := strconv.ParseInt(fmt.Sprintf("%s", src), 10, 64)
	*n = integer(v)
	return err
}

// appendHeaders encodes metadata as a JSON object of strings.
func appendHeaders(b []byte, headers message.Metadata) (_ []byte, err error) {
	b = append(b, '{')
	for k, v := range headers {
		if k == HeaderDeliverAt {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		if b, err = appendString(b, k); err == nil {
			b, err = appendString(append(b, ':'), v)
		}
		if err != nil {
			return nil, fmt.Errorf("metadata %q %w", k, err)
		}
	}
	return append(b, '}'), nil
}

func appendString(b []byte, s string) ([]byte, error) {
	if !plain(s) {
		if !utf8.ValidString(s) {
			return nil, errNotUTF8 // JSON would change it
		}
		quoted, _ := json.Marshal(s) //nolint:errchkjson // strings always encode
		return append(b, quoted...), nil
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"'), nil
}

func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// parseHeaders decodes what appendHeaders wrote; anything unusual goes through encoding/json.
func parseHeaders(s string) (message.Metadata, error) {
	headers := make(message.Metadata, strings.Count(s, ",")+1) // as a rule no value has a comma
	if parsePlain(s, headers) {
		return headers, nil
	}
	clear(headers)
	if err := json.Unmarshal([]byte(s), &headers); err != nil {
		return nil, err
	}
	return headers, nil
}

// parsePlain decodes an object of strings without escapes or spaces. It reports false for everything else.
func parsePlain(s string, into message.Metadata) bool {
	if s == "{}" {
		return true
	}
	for lead := byte('{'); ; lead = ',' {
		if len(s) == 0 || s[0] != lead {
			return s == "}" && lead == ','
		}
		key, rest, ok := cutString(s[1:])
		if !ok || len(rest) == 0 || rest[0] != ':' {
			return false
		}
		value, rest, ok := cutString(rest[1:])
		if !ok {
			return false
		}
		into[key] = value
		s = rest
	}
}

func cutString(s string) (value, rest string, ok bool) {
	if len(s) == 0 || s[0] != '"' {
		return "", "", false
	}
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return s[1:i], s[i+1:], true
		case '\\':
			return "", "", false
		}
	}
	return "", "", false
}
