package chaos

import (
	"context"
	"net/http"

	"github.com/surge-go/surge/resilience"
)

// RoundTripper injects faults into requests before base; nil means http.DefaultTransport. The answer of a
// request that ran and lost it is closed.
func (in *Injector) RoundTripper(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &roundTripper{in: in, base: base}
}

type roundTripper struct {
	in   *Injector
	base http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	var answer *http.Response
	ran := false
	err := t.in.Run(r.Context(), func(context.Context) error {
		var err error
		ran = true
		answer, err = t.base.RoundTrip(r) //nolint:bodyclose // the caller's, or closed below
		return err
	})
	if !ran && r.Body != nil {
		_ = r.Body.Close()
	}
	if err != nil && answer != nil {
		_ = answer.Body.Close()
		answer = nil
	}
	return answer, err
}

// Handler injects faults into requests before h. NotExecuted is 503 with [resilience.HeaderOutcome], Failed
// is 422, and InDoubt cuts the connection without an answer, in one half of the cases after h has run.
func (in *Injector) Handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, hit, runs := in.draw()
		if !hit {
			h.ServeHTTP(w, r)
			return
		}
		if pause(r.Context(), f.Latency) != nil {
			panic(http.ErrAbortHandler)
		}
		switch f.Outcome {
		case resilience.OK:
			h.ServeHTTP(w, r)
		case resilience.NotExecuted:
			w.Header().Set(resilience.HeaderOutcome, "not-executed")
			w.Header().Set("Retry-After", "1")
			http.Error(w, f.failure().Error(), http.StatusServiceUnavailable)
		case resilience.Failed:
			http.Error(w, f.failure().Error(), http.StatusUnprocessableEntity)
		default:
			if runs {
				h.ServeHTTP(&nowhere{header: make(http.Header)}, r)
			}
			panic(http.ErrAbortHandler)
		}
	})
}

// nowhere takes an answer that is to get lost.
type nowhere struct{ header http.Header }

func (n *nowhere) Header() http.Header         { return n.header }
func (n *nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n *nowhere) WriteHeader(int)             {}
