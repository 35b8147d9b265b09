package resilience_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/resilience"
)

// serve sends one request to h behind p.
func serve(t *testing.T, p *resilience.Pipeline, h http.HandlerFunc, header ...string) *http.Response {
	t.Helper()
	w := httptest.NewRecorder()
	resilience.Handler(p, h).ServeHTTP(w, request(t, "GET", "", header...))
	return w.Result()
}

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }

func wantShed(t *testing.T, got *http.Response, code int, retryAfter string) {
	t.Helper()
	if got.StatusCode != code || got.Header.Get("Retry-After") != retryAfter ||
		got.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %d with %v, want %d, Retry-After %s", got.StatusCode, got.Header, code, retryAfter)
	}
	var problem struct{ Status int }
	if err := json.NewDecoder(got.Body).Decode(&problem); err != nil || problem.Status != code {
		t.Errorf("problem %+v, %v", problem, err)
	}
	if outcome := resilience.HTTPOutcome(got, nil); outcome != resilience.NotExecuted {
		t.Errorf("for the client this is %v, want not executed", outcome)
	}
}

func TestHandlerSheds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		limited := pipeline(t, resilience.RateLimit(0.4, 1))
		if got := serve(t, limited, ok); got.StatusCode != http.StatusOK {
			t.Errorf("got %d", got.StatusCode)
		}
		wantShed(t, serve(t, limited, ok), 429, "3") // 2.5 s, rounded up
		full := pipeline(t, resilience.Bulkhead(1, 0))
		leave := occupy(t, full, 1)
		wantShed(t, serve(t, full, ok), 503, "1")
		leave()
	})
}

func TestHandlerReadsTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t)
		got := serve(t, p, func(_ http.ResponseWriter, r *http.Request) {
			if at, ok := r.Context().Deadline(); !ok || time.Until(at) != 1500*time.Millisecond {
				t.Errorf("deadline in %v, %v", time.Until(at), ok)
			}
			<-r.Context().Done()
		}, resilience.HeaderTimeout, "1500")
		if got.StatusCode != http.StatusServiceUnavailable || resilience.HTTPOutcome(got, nil) != resilience.InDoubt {
			t.Errorf("an unanswered request got %d", got.StatusCode)
		}
		wantShed(t, serve(t, p, ok, resilience.HeaderTimeout, "0"), 503, "1")
		for _, nonsense := range []string{"", "-1", "soon", "99999999999999999999"} {
			got := serve(t, p, func(_ http.ResponseWriter, r *http.Request) {
				if _, ok := r.Context().Deadline(); ok {
					t.Errorf("%q gave a deadline", nonsense)
				}
			}, resilience.HeaderTimeout, nonsense)
			if got.StatusCode != http.StatusOK {
				t.Errorf("%q got %d", nonsense, got.StatusCode)
			}
		}
	})
}

// One retrying layer per hop: a retry in a server's pipeline repeats nothing.
func TestRule31_HandlerRunsOnce(t *testing.T) {
	t.Parallel()
	ran := 0
	got := serve(t, pipeline(t, resilience.Retry(resilience.RetryConfig{})), func(w http.ResponseWriter, _ *http.Request) {
		ran++
		w.WriteHeader(http.StatusInternalServerError)
	})
	if ran != 1 || got.StatusCode != http.StatusInternalServerError {
		t.Errorf("ran %d times and got %d", ran, got.StatusCode)
	}
}

func TestHandlerFailuresCount(t *testing.T) {
	t.Parallel()
	b, p := breaker(t, resilience.BreakerConfig{Consecutive: 1, Cooldown: 9 * time.Second})
	serve(t, p, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	wantState(t, b, resilience.Closed)
	serve(t, p, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	wantState(t, b, resilience.Open)
	wantShed(t, serve(t, p, ok), 503, "9")
}

func TestHandlerKeepsFlushing(t *testing.T) {
	t.Parallel()
	got := serve(t, pipeline(t), func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		ok(w, nil)
	})
	if text, _ := io.ReadAll(got.Body); string(text) != "ok" {
		t.Errorf("got %q", text)
	}
}

// Client and server agree about a call over a real connection.
func TestTransportAndHandlerTogether(t *testing.T) {
	t.Parallel()
	full := pipeline(t, resilience.Bulkhead(1, 0))
	entered, release := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(resilience.Handler(full, http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get(resilience.HeaderTimeout) == "" || r.Header.Get(resilience.HeaderAttempt) != "1" {
				t.Errorf("headers %v", r.Header)
			}
			close(entered)
			<-release
			ok(w, r)
		})))
	defer server.Close()
	c := client(t, resilience.Must(resilience.New("c", resilience.Timeout(10*time.Second))), nil)
	post := func() (*http.Response, error) {
		r, _ := http.NewRequestWithContext(context.Background(), http.MethodPost, server.URL, strings.NewReader("b"))
		return c.Do(r)
	}
	first := make(chan resilience.Outcome)
	go func() {
		a, err := post()
		if err == nil {
			defer a.Body.Close()
		}
		first <- resilience.HTTPOutcome(a, err)
	}()
	<-entered
	a, err := post()
	if outcome := resilience.HTTPOutcome(a, err); outcome != resilience.NotExecuted {
		t.Errorf("the shed request is %v (%v)", outcome, err)
	}
	if err == nil {
		_ = a.Body.Close()
	}
	close(release)
	if outcome := <-first; outcome != resilience.OK {
		t.Errorf("the first request is %v", outcome)
	}
}

func FuzzParseRetryAfter(f *testing.F) {
	for _, s := range []string{
		"", "0", "120", "-1", "1.5", " 7 ", "99999999999999999999", "Wed, 21 Oct 2099 07:28:00 GMT",
	} {
		f.Add(s)
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, value string) {
		wait, ok := resilience.ParseRetryAfter(value, now)
		if wait < 0 || !ok && wait != 0 {
			t.Errorf("%q is %v, %v", value, wait, ok)
		}
	})
}

func FuzzHandlerTimeoutHeader(f *testing.F) {
	for _, s := range []string{"", "0", "1500", "-1", "1e3", "99999999999999999999"} {
		f.Add(s)
	}
	p := resilience.Must(resilience.New("p"))
	f.Fuzz(func(t *testing.T, value string) {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set(resilience.HeaderTimeout, value)
		resilience.Handler(p, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if at, ok := r.Context().Deadline(); ok && time.Until(at) > 30*24*time.Hour {
				t.Errorf("%q is a deadline at %v", value, at)
			}
		})).ServeHTTP(w, r)
		if w.Code != http.StatusOK && w.Code != http.StatusServiceUnavailable {
			t.Errorf("%q got %d", value, w.Code)
		}
	})
}

func TestParseRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"0": 0, "120": 2 * time.Minute, " 7 ": 7 * time.Second, "": -1, "-1": -1, "1.5": -1, "soon": -1,
		"99999999999999999999":          1<<63 - 1 - (1<<63-1)%time.Second,
		"Thu, 01 Jan 2026 00:01:00 GMT": time.Minute, "Wed, 31 Dec 2025 00:00:00 GMT": 0,
	} {
		wait, ok := resilience.ParseRetryAfter(value, now)
		if ok != (want >= 0) || ok && wait != want {
			t.Errorf("%q is %v, %v; want %v", value, wait, ok, want)
		}
	}
}
