package idempotency

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

// notStored are headers that belong to one connection, one moment or one person's secrets.
var notStored = []string{
	"Set-Cookie", "Set-Cookie2", "Authorization", "Proxy-Authorization", "Connection", "Keep-Alive", "Proxy-Connection",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Date", "Content-Length", ReplayedHeader,
}

// refusals are the answers that say that nothing was done: not now, or not by you. They are not stored.
var refusals = []int{
	http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooEarly,
	http.StatusTooManyRequests,
}

// storable reports whether an answer is final, so that a retry gets it again.
func storable(status int) bool {
	return status >= 200 && status < 500 && !slices.Contains(refusals, status)
}

// A recorder keeps what a handler answers. With a live writer it hands the answer over to it when the handler
// streams or says more than is stored.
type recorder struct {
	live     http.ResponseWriter // nil: keep everything
	max      int
	header   http.Header
	status   int
	body     []byte
	streamed bool // handed over
}

func newRecorder(live http.ResponseWriter, limit int) *recorder {
	return &recorder{live: live, max: limit, header: http.Header{}}
}

func (r *recorder) Header() http.Header { return r.header }

// WriteHeader notes the status. Informational answers (1xx) are dropped.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= http.StatusOK {
		r.status = status
	}
}

func (r *recorder) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	if r.streamed {
		return r.live.Write(p)
	}
	if r.live != nil && len(r.body)+len(p) > r.max {
		if err := r.stream(); err != nil {
			return 0, err
		}
		return r.live.Write(p)
	}
	r.body = append(r.body, p...)
	return len(p), nil
}

// Flush implements http.Flusher. Without a live writer it does nothing: the answer waits for the commit.
func (r *recorder) Flush() {
	if r.live == nil {
		return
	}
	r.WriteHeader(http.StatusOK)
	if !r.streamed && r.stream() != nil {
		return
	}
	if f, ok := r.live.(http.Flusher); ok {
		f.Flush()
	}
}

// stream sends what was kept, and from now on keeps nothing.
func (r *recorder) stream() error {
	r.streamed = true
	err := r.send(r.live)
	r.body = nil
	return err
}

// send writes the whole answer, with the headers that are not stored.
func (r *recorder) send(w http.ResponseWriter) error {
	maps.Copy(w.Header(), r.header)
	w.WriteHeader(r.code())
	if len(r.body) == 0 {
		return nil
	}
	_, err := w.Write(r.body)
	return err
}

func (r *recorder) code() int {
	if r.status == 0 {
		return http.StatusOK
	}
	return r.status
}

// result returns what is stored of the answer.
func (r *recorder) result() Result {
	if r.streamed || len(r.body) > r.max {
		return Result{Status: r.code(), Lost: true}
	}
	return Result{Status: r.code(), Header: storedHeader(r.header), Body: r.body}
}

func storedHeader(h http.Header) http.Header {
	kept := h.Clone()
	for name := range kept {
		if slices.Contains(notStored, http.CanonicalHeaderKey(name)) || strings.HasPrefix(name, http.TrailerPrefix) {
			delete(kept, name)
		}
	}
	return kept
}

// replay writes a stored answer.
func replay(w http.ResponseWriter, r Result) {
	h := w.Header()
	maps.Copy(h, storedHeader(r.Header))
	h.Set(ReplayedHeader, "true")
	w.WriteHeader(r.Status)
	if len(r.Body) > 0 {
		_, _ = w.Write(r.Body) // the client may be gone
	}
}
