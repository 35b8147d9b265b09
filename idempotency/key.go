package idempotency

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
)

// MaxKeyPart is the greatest length of each part of a [Key], in bytes.
const MaxKeyPart = 255

// A Key names one intention of one principal. All three parts are mandatory, 1 to [MaxKeyPart] bytes each.
type Key struct {
	Scope     string // whose: the tenant or user, from the authenticated principal only
	Operation string // what: "POST /v1/orders"
	ID        string // which: the Idempotency-Key header
}

// Validate returns [ErrScope] for a missing scope and [ErrKey], naming the part, for any other fault.
func (k Key) Validate() error {
	if k.Scope == "" {
		return ErrScope
	}
	for _, p := range []struct{ name, value string }{{"scope", k.Scope}, {"operation", k.Operation}, {"id", k.ID}} {
		switch n := len(p.value); {
		case n == 0:
			return fmt.Errorf("%w: %s is empty", ErrKey, p.name)
		case n > MaxKeyPart:
			return fmt.Errorf("%w: %s has %d bytes, at most %d are allowed", ErrKey, p.name, n, MaxKeyPart)
		}
	}
	return nil
}

// String returns the parts, path-escaped and joined with slashes. Different keys have different strings.
// Stores use it as their primary key.
func (k Key) String() string {
	return scopePrefix(k.Scope) + url.PathEscape(k.Operation) + "/" + url.PathEscape(k.ID)
}

func scopePrefix(scope string) string { return url.PathEscape(scope) + "/" }

// Derive returns a key for a request to another service: the same for every attempt under k, and different for
// every name. It is 64 hexadecimal digits.
func (k Key) Derive(name string) string {
	sum := k.sum(name)
	return hex.EncodeToString(sum[:])
}

// UUID returns an identifier for what a request creates: the same for every attempt under k, and different for
// every name. An aggregate that takes its identifier from here cannot be created twice, even by a retry that
// comes after the key was purged: the insert meets the primary key. It is a version 8 UUID (RFC 9562).
func (k Key) UUID(name string) string {
	u := k.sum(name)
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

func (k Key) sum(name string) [sha256.Size]byte {
	return sha256.Sum256([]byte(k.String() + "/" + url.PathEscape(name)))
}

// ParseKey reads the value of an Idempotency-Key header: a quoted string as RFC 8941 defines it
// (draft-ietf-httpapi-idempotency-key-header demands one), or the bare characters, which most clients send.
// Both forms of the same characters are the same key. A bare key consists of visible ASCII characters other than
// double quote, comma and backslash. The error is [ErrKey].
func ParseKey(header string) (string, error) {
	s := strings.Trim(header, " \t")
	read := bare
	if strings.HasPrefix(s, `"`) {
		read = unquote
	}
	id, err := read(s)
	switch {
	case err != nil:
		return "", err
	case id == "":
		return "", fmt.Errorf("%w: it is empty", ErrKey)
	case len(id) > MaxKeyPart:
		return "", fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrKey, len(id), MaxKeyPart)
	}
	return id, nil
}

func bare(s string) (string, error) {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '"' || c == ',' || c == '\\' {
			return "", fmt.Errorf("%w: character %q is not allowed in a bare key", ErrKey, c)
		}
	}
	return s, nil
}

// unquote reads an sf-string of RFC 8941, section 3.3.3, without parameters.
func unquote(s string) (string, error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' && i == len(s)-1:
			return b.String(), nil
		case c == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\'):
			i++
			b.WriteByte(s[i])
		case c < ' ' || c > '~' || c == '"' || c == '\\':
			return "", fmt.Errorf("%w: character %q is not allowed at %d", ErrKey, c, i)
		default:
			b.WriteByte(c)
		}
	}
	return "", fmt.Errorf("%w: the closing quote is missing", ErrKey)
}
