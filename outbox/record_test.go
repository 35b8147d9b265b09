package outbox_test

import (
	"encoding/json"
	"maps"
	"testing"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
	"pgregory.net/rapid"
)

func TestHeadersSurvive(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		headers := message.Metadata(rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "headers"))
		delete(headers, outbox.HeaderDeliverAt)
		for k, v := range headers {
			if !utf8.ValidString(k) || !utf8.ValidString(v) {
				t.Skip("JSON holds UTF-8 only")
			}
		}
		encoded, err := outbox.AppendHeaders(nil, headers)
		if err != nil {
			t.Fatal(err)
		}
		var standard map[string]string
		if err := json.Unmarshal(encoded, &standard); err != nil || !maps.Equal(standard, headers) {
			t.Fatalf("not the JSON of %q: %s (%v)", headers, encoded, err)
		}
		got, err := outbox.ParseHeaders(encoded)
		if err != nil || !maps.Equal(got, headers) {
			t.Fatalf("%q became %q (%v)", headers, got, err)
		}
	})
}

func TestDeliverAtIsNotAHeader(t *testing.T) {
	t.Parallel()
	got, err := outbox.AppendHeaders(nil, message.Metadata{outbox.HeaderDeliverAt: "x", "a": "b"})
	if err != nil || string(got) != `{"a":"b"}` {
		t.Errorf("got %s (%v)", got, err)
	}
}

func FuzzParseHeaders(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"a":"b"}`, `{"a":"b","c":""}`, `{"a":"\u00e4"}`, ` { "a" : "b" } `, `{"a":1}`, `{"a":"b",}`, `{,}`,
		`{"a"`, `"`, ``, `{"a":"b"}x`, `null`, "{\"a\":\"\xff\"}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := outbox.ParseHeaders(b)
		if err != nil {
			return
		}
		delete(got, outbox.HeaderDeliverAt)
		valid := true
		for k, v := range got {
			valid = valid && utf8.ValidString(k) && utf8.ValidString(v)
		}
		encoded, err := outbox.AppendHeaders(nil, got)
		if (err == nil) != valid {
			t.Fatalf("%q: %v", got, err)
		}
		if !valid {
			return
		}
		if again, err := outbox.ParseHeaders(encoded); err != nil || !maps.Equal(again, got) {
			t.Errorf("%q became %q (%v)", got, again, err)
		}
	})
}

func TestShardOfIsFixed(t *testing.T) {
	t.Parallel()
	// These may never change: a key that changes its shard loses its order while relays of both kinds run.
	for key, want := range map[string]int{"": 5, "order-1": 45, "order-2": 52, "ä": 34} {
		if got := outbox.ShardOf(key); got != want {
			t.Errorf("%q is in shard %d, was %d", key, got, want)
		}
	}
}

func BenchmarkHeaders(b *testing.B) {
	headers := message.Metadata{}
	for _, k := range []string{"ce_type", "ce_source", "ce_time", "ce_partitionkey", "ce_version", "traceparent"} {
		headers[k] = "0198c0de-0000-7000-8000-000000000000"
	}
	b.ReportAllocs()
	var buf []byte
	for b.Loop() {
		var err error
		if buf, err = outbox.AppendHeaders(buf[:0], headers); err != nil {
			b.Fatal(err)
		}
		if _, err := outbox.ParseHeaders(buf); err != nil {
			b.Fatal(err)
		}
	}
}
