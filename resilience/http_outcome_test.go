package resilience_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/resilience"
)

// A timeout of the pipeline ends with the headers: reading the body afterwards must not fail.
func TestTransportBodyOutlivesThePolicies(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-release
		_, _ = io.WriteString(w, "late")
	}))
	defer server.Close()
	client := client(t, resilience.Standard("s"), nil)
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
	got, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	close(release)
	text, err := io.ReadAll(got.Body)
	_ = got.Body.Close()
	if string(text) != "late" || err != nil {
		t.Errorf("read %q, %v", text, err)
	}
}

// client returns a client with connections of its own, which end with the test.
func client(t *testing.T, p *resilience.Pipeline, cfg *resilience.TransportConfig) *http.Client {
	t.Helper()
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	if cfg == nil {
		cfg = &resilience.TransportConfig{}
	}
	cfg.Base = base
	return &http.Client{Transport: resilience.NewTransport(p, *cfg)}
}

func TestTransportBodyEndsWithTheCaller(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
	got, err := client(t, resilience.Standard("s"), nil).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	cancel()
	if _, err := io.ReadAll(got.Body); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestHTTPOutcome(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tries []int // statuses; 0 is an error
		want  resilience.Outcome
	}{
		"ok":                         {[]int{200}, resilience.OK},
		"ok after a doubt":           {[]int{0, 200}, resilience.OK},
		"declined":                   {[]int{422}, resilience.Failed},
		"declined after a doubt":     {[]int{0, 422}, resilience.InDoubt},
		"declined after unavailable": {[]int{503, 422}, resilience.InDoubt},
		"unavailable":                {[]int{503, 503, 503}, resilience.InDoubt},
		"too many":                   {[]int{429, 429, 429}, resilience.InDoubt},
		"error":                      {[]int{0, 0, 0}, resilience.InDoubt},
		"not implemented":            {[]int{501}, resilience.Failed},
		"shed":                       {[]int{-503, -503, -503}, resilience.NotExecuted},
		"shed after a doubt":         {[]int{0, -503, -503}, resilience.InDoubt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				left := c.tries
				got, err := retrying(t, request(t, "GET", ""), func(r *http.Request) (*http.Response, error) {
					code := left[0]
					left = left[1:]
					switch {
					case code == 0:
						return nil, errDown
					case code < 0:
						a, _ := answer(r, -code, resilience.HeaderOutcome, "not-executed")
						return a, nil
					}
					a, _ := answer(r, code)
					return a, nil
				})
				if len(left) != 0 {
					t.Fatalf("%d tries left", len(left))
				}
				if outcome := resilience.HTTPOutcome(got, err); outcome != c.want {
					t.Errorf("%v, want %v (%v, %v)", outcome, c.want, got, err)
				}
			})
		})
	}
}

func TestHTTPOutcomeOfAConflict(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]resilience.Outcome{"": resilience.Failed, "k": resilience.InDoubt} {
		got, err := retrying(t, request(t, "POST", "b", "Idempotency-Key", key),
			func(r *http.Request) (*http.Response, error) {
				a, _ := answer(r, http.StatusConflict)
				return a, nil
			})
		if outcome := resilience.HTTPOutcome(got, err); outcome != want {
			t.Errorf("a conflict with key %q is %v, want %v", key, outcome, want)
		}
	}
}

// The winner of a hedge was declined, but nobody knows about the loser.
func TestRule19_AHedgedRequestUnderWayIsInDoubt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int64
		p := pipeline(t, resilience.Hedge(time.Second, 2))
		got, err := resilience.NewTransport(p, resilience.TransportConfig{
			Base: roundTrip(func(r *http.Request) (*http.Response, error) {
				if tries.Add(1) == 1 {
					time.Sleep(time.Minute)
				}
				a, _ := answer(r, http.StatusPaymentRequired)
				return a, nil
			}),
		}).RoundTrip(request(t, "PUT", "b"))
		if outcome := resilience.HTTPOutcome(got, err); outcome != resilience.InDoubt {
			t.Errorf("%v, want in doubt", outcome)
		}
		time.Sleep(time.Minute)
	})
}

// http.Client hands on what the transport knows of earlier tries.
func TestHTTPOutcomeThroughAClient(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) == 1 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusPaymentRequired)
	}))
	defer server.Close()
	p := pipeline(t, resilience.Retry(resilience.RetryConfig{Min: time.Microsecond}))
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, server.URL, nil)
	got, err := client(t, p, nil).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	outcome := resilience.HTTPOutcome(got, err)
	if got.StatusCode != http.StatusPaymentRequired || outcome != resilience.InDoubt {
		t.Errorf("%d is %v, want in doubt: the first try was", got.StatusCode, outcome)
	}
}

func TestRule19_AFailureBeforeBytesWereSentIsNotExecuted(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close() // nobody listens any more
	p := pipeline(t, resilience.Timeout(10*time.Second))
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader("b"))
	got, err := client(t, p, nil).Do(r)
	if outcome := resilience.HTTPOutcome(got, err); outcome != resilience.NotExecuted {
		t.Errorf("refused connection: %v (%v)", outcome, err)
	}
}

func TestRule19_AConnectionCutBeforeTheAnswerIsInDoubt(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		panic(http.ErrAbortHandler)
	}))
	defer server.Close()
	p := pipeline(t, resilience.Timeout(10*time.Second))
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader("b"))
	got, err := client(t, p, nil).Do(r)
	if outcome := resilience.HTTPOutcome(got, err); outcome != resilience.InDoubt {
		t.Errorf("cut connection: %v (%v)", outcome, err)
	}
}

func TestTransportTimeoutIsInDoubt(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	p := pipeline(t, resilience.Timeout(50*time.Millisecond))
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader("b"))
	got, err := client(t, p, nil).Do(r)
	if _, ok := errors.AsType[*resilience.TimeoutError](err); !ok || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if outcome := resilience.HTTPOutcome(got, err); outcome != resilience.InDoubt {
		t.Errorf("timeout: %v", outcome)
	}
}

func TestTransportKeepsAnUpgradedConnectionWritable(t *testing.T) {
	t.Parallel()
	got, err := retrying(t, request(t, "GET", ""), func(r *http.Request) (*http.Response, error) {
		a, b := answer(r, http.StatusSwitchingProtocols)
		a.Body = struct {
			io.ReadCloser
			io.Writer
		}{b, io.Discard}
		return a, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	if _, ok := got.Body.(io.ReadWriteCloser); !ok {
		t.Error("an upgraded connection cannot be written to")
	}
}
