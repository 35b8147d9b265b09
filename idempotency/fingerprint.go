package idempotency

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
)

// A Fingerprint tells requests apart that come with the same key: the SHA-256 of what they ask for.
type Fingerprint [sha256.Size]byte

// FingerprintOf returns the fingerprint of v's JSON encoding. encoding/json sorts the keys of maps, so equal
// values have equal fingerprints.
func FingerprintOf(v any) (Fingerprint, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return Fingerprint{}, fmt.Errorf("idempotency: fingerprint: %w", err)
	}
	return fingerprint(b), nil
}

// FingerprintRequest returns the fingerprint of r, whose body was read already: method, path and query (as they were
// sent, and as others have left them: [http.StripPrefix] shortens the path), content type and body, byte by byte.
// A client must repeat its request as it was, which is what retries do.
func FingerprintRequest(r *http.Request, body []byte) Fingerprint {
	return fingerprint([]byte(r.Method), []byte(r.RequestURI), []byte(r.URL.EscapedPath()), []byte(r.URL.RawQuery),
		[]byte(r.Header.Get("Content-Type")), body)
}

// fingerprint hashes the parts with their lengths, so that no two lists of parts look alike.
func fingerprint(parts ...[]byte) (f Fingerprint) {
	h := sha256.New()
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	h.Sum(f[:0])
	return f
}
