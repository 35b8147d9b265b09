package resilience

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
)

// Handler serves h through p and sheds what p refuses. The usual policies here are [Bulkhead], [RateLimit]
// and [AdaptiveLimit].
//
// A refusal is 429 by a rate limit and 503 by any other policy, as application/problem+json (RFC 9457), with
// Retry-After and with [HeaderOutcome], which tells a [Transport] that nothing was executed. A request whose
// [HeaderTimeout] has run out is refused too; else h's context gets that deadline. An answer of 5xx by h is a
// failure for the policies. If h returns without an answer after its context has ended, the answer is 503.
//
// h runs at most once and on the server's goroutine, so a Retry in p repeats nothing; a Hedge and a Fallback
// do not belong in it.
func Handler(p *Pipeline, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		if left, ok := parseTimeout(r.Header); ok {
			if left == 0 {
				shed(w, &RejectedError{Pipeline: p.name, Policy: "handler", Reason: "the caller's time is up"})
				return
			}
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, left)
			defer cancel()
		}
		serve(ctx, p, h, w, r)
	})
}

func serve(ctx context.Context, p *Pipeline, h http.Handler, w http.ResponseWriter, r *http.Request) {
	answer := &statusWriter{ResponseWriter: w}
	f := &frame[struct{}]{fn: func(ctx context.Context) (struct{}, error) {
		h.ServeHTTP(answer, r.WithContext(ctx))
		if answer.status == 0 && ctx.Err() != nil {
			return struct{}{}, ctx.Err()
		}
		if answer.status >= 500 {
			return struct{}{}, &StatusError{Code: answer.status}
		}
		return struct{}{}, nil
	}}
	f.once = true
	err := f.start(ctx, p)
	if err == nil || answer.status != 0 {
		return
	}
	if refusal, ok := errors.AsType[*RejectedError](err); ok && OutcomeOf(err) == NotExecuted {
		shed(w, refusal)
		return
	}
	problem(w, http.StatusServiceUnavailable, "The request was not answered in time.")
}

func shed(w http.ResponseWriter, refusal *RejectedError) {
	status := http.StatusServiceUnavailable
	if refusal.Policy == "rate limit" {
		status = http.StatusTooManyRequests
	}
	w.Header().Set("Retry-After", formatRetryAfter(refusal.Wait))
	w.Header().Set(HeaderOutcome, outcomeNotExecuted)
	problem(w, status, "The request was not executed: "+refusal.Policy+": "+refusal.Reason+".")
}

func problem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{http.StatusText(status), status, detail})
}

// statusWriter remembers the status. http.ResponseController reaches through it.
type statusWriter struct {
	http.ResponseWriter
	status int // 0 until the final status is written
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter. Interim answers other than a protocol switch do not count.
func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Hijack implements http.Hijacker where the writer below does. What takes the connection over has answered.
func (w *statusWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil && w.status == 0 {
		w.status = http.StatusSwitchingProtocols
	}
	return conn, buffered, err
}

// Write implements io.Writer.
func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Flush implements http.Flusher where the writer below does.
func (w *statusWriter) Flush() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}
