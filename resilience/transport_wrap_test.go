package resilience_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/surge-go/surge/resilience"
)

// twice is a policy that always runs what is inside of it twice.
var twice = resilience.Wrap("twice", func(ctx context.Context, next func(context.Context) error) error {
	_ = next(ctx)
	return next(ctx)
})

// A policy of one's own repeats only what may be repeated, too: another request is sent once, and its answer stays.
func TestTransportSendsOnceWhatAWrapRepeats(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		method string
		stream bool
		tries  int
	}{
		"put":             {method: "PUT", tries: 2},
		"put of a stream": {method: "PUT", stream: true, tries: 1},
		"post":            {method: "POST", tries: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tries, last := 0, (*tracked)(nil)
			tr := resilience.NewTransport(pipeline(t, twice), resilience.TransportConfig{
				Base: roundTrip(func(r *http.Request) (a *http.Response, _ error) {
					tries++
					a, last = answer(r, http.StatusBadGateway)
					return a, nil
				}),
			})
			r := request(t, c.method, "body")
			if c.stream {
				r.GetBody = nil
			}
			a, err := tr.RoundTrip(r)
			if err != nil || a.StatusCode != http.StatusBadGateway || tries != c.tries || last.closed {
				t.Errorf("got %v, %v after %d tries, want %d; closed: %v", a, err, tries, c.tries, last.closed)
			}
		})
	}
}

// A handler serves a request once, whatever a policy of one's own asks for.
func TestHandlerServesOnceWhatAWrapRepeats(t *testing.T) {
	t.Parallel()
	served := 0
	h := resilience.Handler(pipeline(t, twice), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ }))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
	if served != 1 {
		t.Errorf("served %d times", served)
	}
}

var errRefused = errors.New("refused")

// A policy of one's own that fails a call fails the request too: the answer that it did not want is given up.
func TestTransportHeedsAWrapThatRefusesTheAnswer(t *testing.T) {
	t.Parallel()
	strict := resilience.Wrap("strict", func(ctx context.Context, next func(context.Context) error) error {
		if err := next(ctx); err != nil {
			return err
		}
		return errRefused
	})
	var got *tracked
	code := http.StatusOK
	tr := resilience.NewTransport(pipeline(t, strict), resilience.TransportConfig{
		Base: roundTrip(func(r *http.Request) (a *http.Response, _ error) {
			a, got = answer(r, code)
			return a, nil
		}),
	})
	if a, err := tr.RoundTrip(request(t, "GET", "")); a != nil || !errors.Is(err, errRefused) || !got.closed {
		t.Errorf("got %v, %v; closed: %v", a, err, got.closed)
	}
	code = http.StatusServiceUnavailable
	if a, err := tr.RoundTrip(request(t, "GET", "")); err != nil || a.StatusCode != code || got.closed {
		t.Errorf("got %v, %v; closed: %v", a, err, got.closed)
	}
}
