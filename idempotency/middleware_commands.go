package idempotency

import (
	"context"
	"maps"
	"net/http"
)

// ForCommands is for handlers that decode a command, run it with cqrs.Execute once, and render its result. The key
// is claimed, and the result or rejection of the command stored, in the transaction that Execute shares with other
// requests. The handler itself runs outside of it, for the first request and for a replay alike: the answer is a
// pure rendering of the stored record. So the handler must not do anything else, and render the same way each time;
// it may be called more than once for a request that waits ([MiddlewareConfig.Wait]).
//
// A request whose command failed with anything but a rejection leaves the key free, whatever the handler answers.
// It panics if scope is nil or cfg is not valid.
func ForCommands(s *GormStore, scope Scope, cfg MiddlewareConfig) func(http.Handler) http.Handler {
	return middleware(scope, cfg, func(e *endpoint, w http.ResponseWriter, x *exchange) error {
		in := &intent{store: s, req: ClaimRequest{Key: x.key, Fingerprint: x.mark}}
		ctx := in.prepare(context.WithValue(x.r.Context(), intentKey{}, in))
		cw := &commandWriter{w: w, in: in, header: maps.Clone(w.Header())}
		e.next.ServeHTTP(cw, x.request(ctx))
		if in.failed != nil && !cw.wrote {
			return in.failed
		}
		cw.begin(http.StatusOK)
		return nil
	})
}

// A commandWriter passes on what the handler writes, unless its command did not run because of the key.
type commandWriter struct {
	w      http.ResponseWriter
	in     *intent
	header http.Header
	wrote  bool
}

func (c *commandWriter) Header() http.Header { return c.header }

func (c *commandWriter) WriteHeader(status int) {
	if c.in.failed == nil {
		c.begin(status)
	}
}

func (c *commandWriter) Write(p []byte) (int, error) {
	if c.in.failed != nil && !c.wrote {
		return len(p), nil // the handler's view of it; the middleware answers
	}
	c.begin(http.StatusOK)
	return c.w.Write(p)
}

// Flush implements http.Flusher.
func (c *commandWriter) Flush() {
	if f, ok := c.w.(http.Flusher); ok && (c.in.failed == nil || c.wrote) {
		c.begin(http.StatusOK)
		f.Flush()
	}
}

func (c *commandWriter) begin(status int) {
	if c.wrote {
		return
	}
	c.wrote = status >= http.StatusOK // 1xx may be followed by more
	if c.in.replayed {
		c.header.Set(ReplayedHeader, "true")
	}
	h := c.w.Header()
	clear(h)
	maps.Copy(h, c.header)
	c.w.WriteHeader(status)
}
