package idempotency_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/surge-go/surge/idempotency"
)

func TestParseKey(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]string{
		`8e03978e-40d5-43dd-bc93-6894a57f9324`:   "8e03978e-40d5-43dd-bc93-6894a57f9324",
		`"8e03978e-40d5-43dd-bc93-6894a57f9324"`: "8e03978e-40d5-43dd-bc93-6894a57f9324",
		"  k\t":                                  "k",
		` "with space, and comma" `:              "with space, and comma",
		`"a \"quoted\" \\ part"`:                 `a "quoted" \ part`,
		`a=b;c+/:_-.~`:                           "a=b;c+/:_-.~",
		strings.Repeat("x", 255):                 strings.Repeat("x", 255),
		`"` + strings.Repeat("x", 255) + `"`:     strings.Repeat("x", 255),
	} {
		if got, err := idempotency.ParseKey(header); err != nil || got != want {
			t.Errorf("%q: %q, %v", header, got, err)
		}
	}
	for _, header := range []string{
		"", " ", `""`, `"`, `"a`, `a"`, `"a"b`, `"a";p=1`, "a, b", "a b", `"\x"`, `"a\"`, "ä", "\"ä\"", "a\x00", "\"a\n\"",
		`a\b`, strings.Repeat("x", 256), `"` + strings.Repeat("x", 256) + `"`,
	} {
		if got, err := idempotency.ParseKey(header); !errors.Is(err, idempotency.ErrKey) {
			t.Errorf("%q was read as %q, %v", header, got, err)
		}
	}
}

func TestKeyValidate(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 256)
	for _, c := range []struct {
		key  idempotency.Key
		want error
	}{
		{idempotency.Key{Scope: "s", Operation: "o", ID: "i"}, nil},
		{idempotency.Key{Operation: "o", ID: "i"}, idempotency.ErrScope},
		{idempotency.Key{Scope: "s", ID: "i"}, idempotency.ErrKey},
		{idempotency.Key{Scope: "s", Operation: "o"}, idempotency.ErrKey},
		{idempotency.Key{Scope: long, Operation: "o", ID: "i"}, idempotency.ErrKey},
		{idempotency.Key{Scope: "s", Operation: long, ID: "i"}, idempotency.ErrKey},
		{idempotency.Key{Scope: "s", Operation: "o", ID: long}, idempotency.ErrKey},
	} {
		if err := c.key.Validate(); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v", c.key, err)
		}
	}
}

// A retry that comes after the key was purged creates the same aggregate, and so meets its primary key.
func TestRule10_IDsDeriveFromTheKey(t *testing.T) {
	t.Parallel()
	k := idempotency.Key{Scope: "s", Operation: "o", ID: "i"}
	id := k.UUID("order")
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(id) {
		t.Errorf("%s is no UUID of version 8", id)
	}
	again := idempotency.Key{Scope: "s", Operation: "o", ID: "i"}
	if id != again.UUID("order") || again.Derive("charge") != k.Derive("charge") {
		t.Error("derived values differ between attempts")
	}
	seen := map[string]idempotency.Key{}
	for _, k := range []idempotency.Key{
		k,
		{Scope: "s2", Operation: "o", ID: "i"},
		{Scope: "s", Operation: "o2", ID: "i"},
		{Scope: "s", Operation: "o", ID: "i2"},
		{Scope: "s/o", Operation: "i", ID: "x"},
		{Scope: "s", Operation: "o/i", ID: "x"},
	} {
		for _, v := range []string{k.UUID("order"), k.UUID("line"), k.Derive("order"), k.Derive("line"), k.String()} {
			if other, dup := seen[v]; dup {
				t.Errorf("%+v and %+v share %s", k, other, v)
			}
			seen[v] = k
		}
	}
}

func TestFingerprintOf(t *testing.T) {
	t.Parallel()
	a, err := idempotency.FingerprintOf(map[string]int{"a": 1, "b": 2})
	must(t, err)
	b, err := idempotency.FingerprintOf(map[string]int{"b": 2, "a": 1})
	must(t, err)
	if a != b {
		t.Error("equal values have different fingerprints")
	}
	if c, err := idempotency.FingerprintOf(map[string]int{"a": 1}); err != nil || c == a {
		t.Error("different values have equal fingerprints")
	}
	if _, err := idempotency.FingerprintOf(func() {}); err == nil {
		t.Error("a function has a fingerprint")
	}
}
