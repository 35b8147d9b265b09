package resilience

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"
)

// TransportConfig configures a [Transport]; the zero value works.
type TransportConfig struct {
	// Base sends the requests. Nil means http.DefaultTransport.
	Base http.RoundTripper
	// Pick chooses the pipeline of a request, given that of [NewTransport]. Nil, and what it returns nil for, means a
	// copy for each host, so that a host that fails does not stop calls to the others. It must be safe for concurrent
	// use.
	Pick func(r *http.Request, p *Pipeline) *Pipeline
	// MaxHosts is how many hosts get a copy of their own at the same time. 0 means 1000. Beyond that, copies
	// with closed breakers that nobody has forced make room, then any.
	MaxHosts int
	// Registry lists the copies by host as well, if it is not nil.
	Registry *Registry
	// Logger hears of tries that are repeated, at debug level. Nil discards.
	Logger *slog.Logger
}

func (c TransportConfig) withDefaults() TransportConfig {
	if c.Base == nil {
		c.Base = http.DefaultTransport
	}
	if c.MaxHosts <= 0 {
		c.MaxHosts = 1000
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Transport is an http.RoundTripper that sends requests through a pipeline. Safe for concurrent use.
type Transport struct {
	cfg   TransportConfig
	hosts hostPipelines
}

// NewTransport sends requests through p, or what cfg.Pick makes of it.
//
// For the policies, answers of 5xx, 408 and 429 are failures with the wait that their Retry-After asks for;
// the caller still gets the last of them as a response, as from any http.RoundTripper. Another answer that a policy of
// one's own, or chaos, fails is drained and closed, and the caller gets the error. Retry and hedge apply
// to GET, HEAD, OPTIONS, TRACE, PUT and DELETE, and to POST and PATCH with an Idempotency-Key, provided that
// the body can be sent again (none, or GetBody is set, as http.NewRequest does for the usual readers). Others
// are sent once. What a try got is drained, for 50 ms at most, and closed before the next.
//
// Timeouts of the pipeline cover a request up to the answer's headers; its body is read under the request's
// own context. Each try carries [HeaderAttempt] and [HeaderTimeout].
//
// [HTTPOutcome] tells what became of a request. A failure before a connection was there is [NotExecuted].
func NewTransport(p *Pipeline, cfg TransportConfig) *Transport {
	filled := cfg.withDefaults()
	return &Transport{
		cfg:   filled,
		hosts: hostPipelines{model: p, most: filled.MaxHosts, registry: filled.Registry},
	}
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	p := t.pick(r)
	s := &sending{t: t, request: r}
	f := &frame[*http.Response]{fn: s.try, discard: drain}
	f.once = !repeatable(r)
	err := f.start(r.Context(), p)
	if !s.used.Load() {
		closeBody(r)
	}
	if f.value != nil && err != nil && statusError(f.value) == nil {
		drain(f.value) // a policy has failed the call in spite of its answer
		f.value = nil
	}
	earlier := before(r)
	if f.value != nil {
		f.value.Request = r.WithContext(context.WithValue(r.Context(), earlierKey{}, max(earlier, s.worst())))
		return f.value, nil
	}
	if earlier > OutcomeOf(err) {
		err = WithOutcome(err, earlier)
	}
	return nil, err
}

// CloseIdleConnections closes those of the base, if it has such a method. http.Client's method of this name
// comes here.
func (t *Transport) CloseIdleConnections() {
	if base, ok := t.cfg.Base.(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

func (t *Transport) pick(r *http.Request) *Pipeline {
	if t.cfg.Pick != nil {
		if p := t.cfg.Pick(r, t.hosts.model); p != nil {
			return p
		}
	}
	return t.hosts.of(r.URL.Host)
}

// repeatable reports whether a request may be sent more than once.
func repeatable(r *http.Request) bool {
	if r.Body != nil && r.Body != http.NoBody && r.GetBody == nil {
		return false
	}
	switch r.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	case http.MethodPost, http.MethodPatch:
		return r.Header.Get("Idempotency-Key") != ""
	}
	return false
}

// sending is one request with all of its tries, which a hedge makes at the same time.
type sending struct {
	t       *Transport
	request *http.Request
	used    atomic.Bool // the request's own body went to a try

	mu       sync.Mutex
	underWay int     // tries
	outcomes Outcome // the worst of the tries that ended
}

// try sends the request once.
func (s *sending) try(ctx context.Context) (*http.Response, error) {
	s.mu.Lock()
	s.underWay++
	s.mu.Unlock()
	answer, err := s.send(ctx)
	s.mu.Lock()
	s.underWay--
	s.outcomes = max(s.outcomes, OutcomeOf(err))
	s.mu.Unlock()
	if err != nil {
		s.t.cfg.Logger.LogAttrs(ctx, slog.LevelDebug, "http try failed", slog.String("host", s.request.URL.Host),
			slog.Int("attempt", Attempt(ctx)), slog.Any("error", err))
	}
	return answer, err
}

func (s *sending) send(ctx context.Context) (*http.Response, error) {
	sent := &trip{caller: s.request.Context()}
	r, err := s.prepare(ctx, sent)
	if err != nil {
		return nil, WithOutcome(err, NotExecuted)
	}
	answer, err := s.t.cfg.Base.RoundTrip(r)
	headersIn := sent.stop()
	if answer == nil && err == nil {
		err = fmt.Errorf("resilience: %T returned neither an answer nor an error", s.t.cfg.Base)
	}
	if err != nil {
		sent.cancel(nil)
		err = sent.explain(ctx, err)
	} else {
		answer.Body = endWith(answer.Body, sent)
		err = statusError(answer)
	}
	if !headersIn && answer != nil {
		// The time was up just as the headers came in: nobody may read a body that is being cut off.
		drain(answer)
		return nil, ctx.Err()
	}
	return answer, err
}

// prepare makes the request of one try. Its context ends with ctx until the headers are in, and with the
// caller's until the body is closed.
func (s *sending) prepare(ctx context.Context, sent *trip) (*http.Request, error) {
	own, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	sent.cancel = cancel
	sent.stop = context.AfterFunc(ctx, func() { cancel(ctx.Err()) })
	sent.release = context.AfterFunc(sent.caller, func() { cancel(context.Cause(sent.caller)) })
	r := s.request.Clone(httptrace.WithClientTrace(own, &httptrace.ClientTrace{
		GetConn: func(string) { sent.dialing.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { sent.connected.Store(true) },
	}))
	propagate(ctx, r.Header)
	if !s.used.Swap(true) || r.Body == nil || r.Body == http.NoBody {
		return r, nil
	}
	again, err := s.request.GetBody()
	if err != nil {
		sent.end()
		return nil, err
	}
	r.Body = again
	return r, nil
}

// worst returns the worst outcome of the tries. One that lost a hedge and is still under way is in doubt.
func (s *sending) worst() Outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.underWay > 0 {
		return InDoubt
	}
	return s.outcomes
}

// trip is the life of one try's context.
type trip struct {
	caller    context.Context
	cancel    context.CancelCauseFunc
	stop      func() bool // lets go of the pipeline's context; false if that has ended
	release   func() bool // lets go of the caller's context
	dialing   atomic.Bool // the base reports its connections
	connected atomic.Bool // bytes may have been written
}

// end releases what the try holds, when the body is done with.
func (t *trip) end() {
	t.stop()
	t.release()
	t.cancel(nil)
}

// explain says what an error of the base means.
func (t *trip) explain(ctx context.Context, err error) error {
	t.release()
	err = endedBy(ctx, err)
	if t.dialing.Load() && !t.connected.Load() {
		return WithOutcome(err, NotExecuted)
	}
	return err
}

// body ends its try's context when it is closed.
type body struct {
	io.ReadCloser
	trip *trip
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, context.Canceled) {
		err = endedBy(b.trip.caller, err)
	}
	return n, err
}

// Close implements io.Closer.
func (b *body) Close() error {
	defer b.trip.end()
	return b.ReadCloser.Close()
}

// cut ends the try's context before the body is closed: a read that waits returns.
func (b *body) cut() { b.trip.end() }

// writableBody is the body of an answer that switches protocols.
type writableBody struct {
	body
	io.Writer
}

func endWith(b io.ReadCloser, t *trip) io.ReadCloser {
	if b == nil { // http.Client takes that for an empty one
		b = http.NoBody
	}
	if w, ok := b.(io.Writer); ok {
		return &writableBody{body: body{ReadCloser: b, trip: t}, Writer: w}
	}
	return &body{ReadCloser: b, trip: t}
}

// drainLimit and drainTime are how much of a body is worth reading, and waiting for, to use its connection again.
const (
	drainLimit = 64 << 10
	drainTime  = 50 * time.Millisecond
)

// drain reads a little and closes, so that the connection can be used again. A body that does not end is cut off: no
// timeout of the pipeline covers it.
func drain(answer *http.Response) {
	if answer == nil {
		return
	}
	if b, ok := answer.Body.(interface{ cut() }); ok {
		defer time.AfterFunc(drainTime, b.cut).Stop()
	}
	_, _ = io.CopyN(io.Discard, answer.Body, drainLimit)
	_ = answer.Body.Close()
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}

func retryAfter(answer *http.Response) time.Duration {
	wait, _ := ParseRetryAfter(answer.Header.Get("Retry-After"), time.Now())
	return wait
}
