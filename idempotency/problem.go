package idempotency

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// ProblemPrefix begins the type of every problem (RFC 9457) that the middleware answers with.
const ProblemPrefix = "urn:surge:idempotency:"

var (
	errBodyTooLarge = errors.New("idempotency: the request's body is too large")
	errBody         = errors.New("idempotency: the request's body could not be read")
	errMissing      = errors.New("idempotency: the request has no Idempotency-Key header")
)

// A problem is a problem detail as RFC 9457 defines it.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`

	retryAfter time.Duration
}

// problems lists what the client is told about an error; the first that matches counts.
var problems = []struct {
	err error
	problem
}{
	{errMissing, problem{Type: "key-missing", Status: 400, Title: "Idempotency-Key is missing"}},
	{ErrKey, problem{Type: "key-malformed", Status: 400, Title: "Idempotency-Key is malformed"}},
	{ErrScope, problem{Type: "scope-missing", Status: 403, Title: "The request names no principal"}},
	{errBodyTooLarge, problem{Type: "body-too-large", Status: 413, Title: "The body is too large"}},
	{errBody, problem{Type: "body-unreadable", Status: 400, Title: "The body could not be read"}},
	{ErrMismatch, problem{Type: "key-reused", Status: 422, Title: "Idempotency-Key was used for another request"}},
	{ErrInFlight, problem{
		Type: "in-flight", Status: 409, Title: "The first request with this Idempotency-Key is still running",
		retryAfter: time.Second,
	}},
	{ErrNotReplayable, problem{
		Type: "not-replayable", Status: 409, Title: "The request was completed, but its answer was not kept",
	}},
	{ErrUnknown, problem{
		Type: "outcome-unknown", Status: 409, Title: "The outcome of the first request is unknown",
	}},
	{ErrLost, problem{
		Type: "outcome-unknown", Status: 409, Title: "Another attempt has taken this Idempotency-Key over",
	}},
	{ErrSpent, problem{
		Type: "key-spent", Status: 500, Title: "The request ran more than one command under its Idempotency-Key",
	}},
}

// problemOf says what the client is told about err. What is not listed is a fault of the store: nothing ran, or
// nothing that ran is committed, and the client may try again.
func problemOf(err error) problem {
	for _, p := range problems {
		if errors.Is(err, p.err) {
			if p.Status == http.StatusBadRequest {
				p.Detail = err.Error()
			}
			return p.problem
		}
	}
	return problem{
		Type: "unavailable", Status: http.StatusServiceUnavailable, Title: "Idempotency keys cannot be checked now",
		retryAfter: time.Second,
	}
}

func (p problem) write(w http.ResponseWriter) {
	p.Type = ProblemPrefix + p.Type
	body, err := json.Marshal(p)
	if err != nil { // strings and a number always encode
		body = nil
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(p.retryAfter/time.Second)))
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // the client may be gone
}
