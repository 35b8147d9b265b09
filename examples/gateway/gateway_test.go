package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/surge-go/surge/examples/gateway"
)

var secret = []byte("0123456789abcdef0123456789abcdef")

type answer struct {
	status int
	header http.Header
	body   string
}

// serve starts an upstream.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// door starts a gateway and returns how to ask it.
func door(t *testing.T, cfg gateway.Config) func(method, path string, header ...string) answer {
	t.Helper()
	transport := &http.Transport{}
	cfg.Transport, cfg.Secret = transport, secret
	g, err := gateway.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(g)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait(); s.Close(); g.Close() })
	return func(method, path string, header ...string) answer {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		b, _ := io.ReadAll(res.Body)
		return answer{res.StatusCode, res.Header, string(b)}
	}
}

func token(t *testing.T, customer string, expires time.Time) string {
	t.Helper()
	tok, err := gateway.Token(secret, customer, expires)
	if err != nil {
		t.Fatal(err)
	}
	return "Bearer " + tok
}

func echo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Surge-Outcome", "secret")
	_, _ = fmt.Fprintf(w, "%s %s customer=%q", r.Method, r.URL.RequestURI(), r.Header.Get(gateway.HeaderCustomer))
	for name := range r.Header {
		if strings.HasPrefix(name, "Ce_") || name == "Authorization" || name == "X-Drop" || name == "X-Add" {
			_, _ = fmt.Fprintf(w, " %s=%s", name, r.Header.Get(name))
		}
	}
}

func TestRouteMapsThePath(t *testing.T) {
	t.Parallel()
	ask := door(t, gateway.Config{
		Services: map[string][]string{"order": {serve(t, echo)}},
		Routes: []gateway.Route{{
			Upstream: "POST /api/orders/{id}/cancel", Service: "order", Downstream: "/v1/orders/{id}/cancel",
			Headers: map[string]string{"X-Drop": "", "X-Add": "1"},
		}},
	})
	got := ask("POST", "/api/orders/o-1/cancel?why=late", "X-Drop", "1")
	if got.body != `POST /v1/orders/o-1/cancel?why=late customer="" X-Add=1` {
		t.Errorf("%+v", got)
	}
	for _, path := range []string{"/api/orders/..%2f..%2fops/cancel", "/ops", "/api/orders", "/api/orders/%2e%2e/cancel"} {
		got := ask("POST", path)
		if got.status != 404 && got.status != 307 && got.status != 301 {
			t.Errorf("%s: %+v", path, got)
		}
	}
}

func TestOtherMethodIs405(t *testing.T) {
	t.Parallel()
	ask := door(t, gateway.Config{
		Services: map[string][]string{"order": {serve(t, echo)}},
		Routes: []gateway.Route{
			{Upstream: "GET /api/orders/{id}", Service: "order", Downstream: "/v1/orders/{id}"},
			{Upstream: "PUT /api/orders/{id}", Service: "order", Downstream: "/v1/orders/{id}"},
		},
	})
	got := ask("DELETE", "/api/orders/o-1")
	if got.status != 405 || got.header.Get("Allow") != "GET, HEAD, PUT" || !json.Valid([]byte(got.body)) {
		t.Errorf("%+v", got)
	}
	if got := ask("DELETE", "/api/carts/o-1"); got.status != 404 {
		t.Errorf("%+v", got)
	}
}

func TestRule35_ReservedHeadersAreStripped(t *testing.T) {
	t.Parallel()
	ask := door(t, gateway.Config{
		Services: map[string][]string{"order": {serve(t, echo)}},
		Routes:   []gateway.Route{{Upstream: "GET /api/x", Service: "order", Downstream: "/v1/x"}},
	})
	got := ask("GET", "/api/x", gateway.HeaderCustomer, "mallory", "Ce_type", "orders.confirm", "Surge-Timeout-Ms", "0")
	if got.body != `GET /v1/x customer=""` || got.header.Get("Surge-Outcome") != "" {
		t.Fatalf("%+v", got)
	}
}

func TestTokenDecidesWhoItIs(t *testing.T) {
	t.Parallel()
	ask := door(t, gateway.Config{
		Services: map[string][]string{"order": {serve(t, echo)}},
		Routes:   []gateway.Route{{Upstream: "GET /api/x", Service: "order", Downstream: "/v1/x", Auth: true}},
	})
	soon := time.Now().Add(time.Minute)
	got := ask("GET", "/api/x", "Authorization", token(t, "ann", soon), gateway.HeaderCustomer, "mallory")
	if got.body != `GET /v1/x customer="ann"` {
		t.Errorf("%+v", got)
	}
	// {"alg":"none"} with a subject and without a signature
	const unsigned = "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4iLCJleHAiOjk5OTk5OTk5OTl9."
	for name, bad := range map[string]string{
		"none": "", "not bearer": "Basic YTpi", "nonsense": "Bearer x.y.z", "unsigned": unsigned,
		"expired": token(t, "ann", time.Now().Add(-time.Minute)), "nobody": token(t, "", soon),
		"tampered": token(t, "ann", soon) + "x",
	} {
		if got := ask("GET", "/api/x", "Authorization", bad); got.status != 401 ||
			got.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestRateLimitAnswers429(t *testing.T) {
	t.Parallel()
	ask := door(t, gateway.Config{
		Services: map[string][]string{"order": {serve(t, echo)}},
		Routes: []gateway.Route{{
			Upstream: "GET /api/x", Service: "order", Downstream: "/v1/x", Rate: 0.01, Burst: 2,
		}},
	})
	var last answer
	for range 3 {
		last = ask("GET", "/api/x")
	}
	if last.status != 429 || last.header.Get("Retry-After") == "" {
		t.Fatalf("%+v", last)
	}
}

func TestAdmissionHoldsBackWhatIsTooMuch(t *testing.T) {
	t.Parallel()
	var open atomic.Int64
	open.Store(5)
	ask := door(t, gateway.Config{
		Services: map[string][]string{"order": {serve(t, echo)}},
		Routes: []gateway.Route{
			{Upstream: "POST /api/x", Service: "order", Downstream: "/v1/x", Admit: true},
			{Upstream: "GET /api/x", Service: "order", Downstream: "/v1/x"},
		},
		Admission: gateway.Admission{
			Limit: 5, Interval: time.Millisecond, Wait: 200 * time.Millisecond,
			Gauge: func(*http.Client) (int, error) { return int(open.Load()), nil },
		},
	})
	deadline := time.Now().Add(10 * time.Second)
	for got := ask("POST", "/api/x"); got.status != 429; got = ask("POST", "/api/x") {
		if time.Now().After(deadline) {
			t.Fatal("everything is let in")
		}
	}
	if got := ask("POST", "/api/x"); got.status != 429 || got.header.Get("Retry-After") != "1" {
		t.Errorf("full: %+v", got)
	}
	if got := ask("GET", "/api/x"); got.status != 200 {
		t.Errorf("a read: %+v", got)
	}
	time.AfterFunc(20*time.Millisecond, func() { open.Store(0) })
	if got := ask("POST", "/api/x"); got.status != 200 {
		t.Errorf("room came while it waited: %+v", got)
	}
}

func TestAdmissionWithoutAGaugeReadingLetsPass(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 1)
	ask := door(t, gateway.Config{
		Services: map[string][]string{"order": {serve(t, echo)}},
		Routes:   []gateway.Route{{Upstream: "POST /api/x", Service: "order", Downstream: "/v1/x", Admit: true}},
		Admission: gateway.Admission{
			Limit: 1, Interval: time.Millisecond, Wait: 100 * time.Millisecond, Gauge: func(*http.Client) (int, error) {
				select {
				case asked <- struct{}{}:
				default:
				}
				return 0, errors.New("down")
			},
		},
	})
	<-asked
	deadline := time.Now().Add(10 * time.Second)
	for passed := 0; passed < 5; {
		got := ask("POST", "/api/x")
		switch {
		case got.status == 200:
			passed++
		case got.status != 429 || passed > 0 || time.Now().After(deadline):
			t.Fatalf("%+v after %d", got, passed)
		}
	}
}

// A service that restarts is back before those who wait for it give up.
func TestAdmissionWaitsForAGaugeThatComesBack(t *testing.T) {
	t.Parallel()
	var down atomic.Bool
	down.Store(true)
	ask := door(t, gateway.Config{
		Services: map[string][]string{"order": {serve(t, func(w http.ResponseWriter, r *http.Request) {
			if down.Load() {
				t.Error("a request reached a service that does not say how it is")
			}
			echo(w, r)
		})}},
		Routes: []gateway.Route{{Upstream: "POST /api/x", Service: "order", Downstream: "/v1/x", Admit: true}},
		Admission: gateway.Admission{
			Limit: 1, Interval: time.Millisecond, Wait: 20 * time.Second, Gauge: func(*http.Client) (int, error) {
				if down.Load() {
					return 0, errors.New("down")
				}
				return 0, nil
			},
		},
	})
	time.AfterFunc(50*time.Millisecond, func() { down.Store(false) })
	for range 3 {
		if got := ask("POST", "/api/x"); got.status != 200 {
			t.Fatalf("%+v", got)
		}
	}
}

func TestBalancingSkipsWhatIsDown(t *testing.T) {
	t.Parallel()
	named := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) }
	}
	down := httptest.NewServer(named("down"))
	down.Close()
	ask := door(t, gateway.Config{
		Services: map[string][]string{"order": {serve(t, named("a")), down.URL, serve(t, named("b"))}},
		Routes:   []gateway.Route{{Upstream: "GET /api/x", Service: "order", Downstream: "/v1/x"}},
		Breaker:  gateway.BreakerConfig{Failures: 2, Cooldown: time.Hour},
	})
	seen := map[string]int{}
	for range 40 {
		got := ask("GET", "/api/x")
		seen[fmt.Sprint(got.status, got.body[:1])]++
	}
	if seen["200a"] < 12 || seen["200b"] < 12 || seen["200a"]+seen["200b"] != 38 {
		t.Fatalf("%v", seen)
	}
}

func TestOpenBreakerAnswersAtOnce(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	ask := door(t, gateway.Config{
		Services: map[string][]string{"order": {serve(t, func(w http.ResponseWriter, _ *http.Request) {
			calls.Add(1)
			w.WriteHeader(http.StatusInternalServerError)
		})}},
		Routes:  []gateway.Route{{Upstream: "POST /api/x", Service: "order", Downstream: "/v1/x"}},
		Breaker: gateway.BreakerConfig{Failures: 3, Cooldown: time.Hour},
	})
	for range 3 {
		if got := ask("POST", "/api/x"); got.status != 500 {
			t.Fatalf("the service's own answer: %+v", got)
		}
	}
	got := ask("POST", "/api/x")
	if got.status != 503 || got.header.Get("Retry-After") == "" || calls.Load() != 3 {
		t.Fatalf("%+v after %d calls", got, calls.Load())
	}
}

func TestRule31_OnlyGETIsRetried(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1)%2 == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	services := map[string][]string{"order": {url}}
	ask := door(t, gateway.Config{Services: services, Routes: []gateway.Route{
		{Upstream: "GET /api/x", Service: "order", Downstream: "/v1/x", Tries: 3},
		{Upstream: "POST /api/x", Service: "order", Downstream: "/v1/x"},
	}})
	if got := ask("GET", "/api/x"); got.status != 200 || calls.Load() != 2 {
		t.Errorf("GET: %+v after %d calls", got, calls.Load())
	}
	if got := ask("POST", "/api/x", "Idempotency-Key", "k"); got.status != 503 || calls.Load() != 3 {
		t.Errorf("POST: %+v after %d calls", got, calls.Load())
	}
	_, err := gateway.New(gateway.Config{Services: services, Routes: []gateway.Route{
		{Upstream: "POST /api/x", Service: "order", Downstream: "/v1/x", Tries: 3},
	}})
	if err == nil || !strings.Contains(err.Error(), "Tries") {
		t.Errorf("a table that retries POST: %v", err)
	}
}

func TestTimeoutIs504(t *testing.T) {
	t.Parallel()
	ask := door(t, gateway.Config{
		Services: map[string][]string{"order": {serve(t, func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		})}},
		Routes: []gateway.Route{{
			Upstream: "GET /api/x", Service: "order", Downstream: "/v1/x", Timeout: 20 * time.Millisecond,
		}},
	})
	if got := ask("GET", "/api/x"); got.status != 504 {
		t.Fatalf("%+v", got)
	}
}

func TestTableIsChecked(t *testing.T) {
	t.Parallel()
	type table = []gateway.Route
	const to = "order"
	base := map[string][]string{"order": {"http://127.0.0.1:1"}}
	for want, cfg := range map[string]gateway.Config{
		"no service":      {Services: base, Routes: table{{Upstream: "GET /a", Service: "x", Downstream: "/a"}}},
		"/ops":            {Services: base, Routes: table{{Upstream: "GET /a", Service: "order", Downstream: "/ops/x"}}},
		"{id}":            {Services: base, Routes: table{{Upstream: "GET /a", Service: "order", Downstream: "/v1/{id}"}}},
		"32 bytes":        {Services: base, Routes: table{{Upstream: "GET /a", Service: to, Downstream: "/a", Auth: true}}},
		"Cache":           {Services: base, Routes: table{{Upstream: "POST /a", Service: to, Downstream: "/a", Cache: 1}}},
		"base URL":        {Services: map[string][]string{"order": {"nonsense"}}},
		"no instance":     {Services: map[string][]string{"order": {}}},
		"Admission.Limit": {Admission: gateway.Admission{Gauge: func(*http.Client) (int, error) { return 0, nil }}},
		"conflicts": {Services: base, Routes: table{
			{Upstream: "GET /a", Service: "order", Downstream: "/a"}, {Upstream: "GET /a", Service: "order", Downstream: "/b"},
		}},
		"parts": {Services: base, Aggregates: []gateway.Aggregate{{Upstream: "GET /a"}}},
	} {
		if _, err := gateway.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not named: %v", want, err)
		}
	}
}
