package resilience_test

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/resilience"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// tracked is a body that tells whether it was read to its end and closed.
type tracked struct {
	io.Reader
	read, closed bool
}

func (b *tracked) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.read = b.read || err == io.EOF
	return n, err
}

func (b *tracked) Close() error {
	b.closed = true
	return nil
}

func answer(r *http.Request, code int, header ...string) (*http.Response, *tracked) {
	body := &tracked{Reader: strings.NewReader("body of " + http.StatusText(code))}
	a := &http.Response{StatusCode: code, Header: make(http.Header), Body: body, Request: r}
	for i := 0; i < len(header); i += 2 {
		a.Header.Set(header[i], header[i+1])
	}
	return a, body
}

func request(t *testing.T, method, body string, header ...string) *http.Request {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://stock/items", reader)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// retrying sends a request through a pipeline with nothing but a retry.
func retrying(t *testing.T, r *http.Request, base roundTrip) (*http.Response, error) {
	t.Helper()
	p := pipeline(t, resilience.Retry(resilience.RetryConfig{}))
	return resilience.NewTransport(p, resilience.TransportConfig{Base: base}).RoundTrip(r)
}

func TestTransportRetriesOnlyWhatIsSafe(t *testing.T) {
	t.Parallel()
	key := []string{"Idempotency-Key", "k"}
	for name, c := range map[string]struct {
		method, body string
		header       []string
		stream       bool
		tries        int
	}{
		"get":                    {method: "GET", tries: 3},
		"no method is get":       {method: "", tries: 3},
		"put":                    {method: "PUT", body: "b", tries: 3},
		"delete":                 {method: "DELETE", tries: 3},
		"post":                   {method: "POST", body: "b", tries: 1},
		"post with key":          {method: "POST", body: "b", header: key, tries: 3},
		"patch with key":         {method: "PATCH", body: "b", header: key, tries: 3},
		"post of a stream":       {method: "POST", body: "b", header: key, stream: true, tries: 1},
		"put of a stream":        {method: "PUT", body: "b", stream: true, tries: 1},
		"unknown method":         {method: "LOCK", tries: 1},
		"post without body, key": {method: "POST", header: key, tries: 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := request(t, c.method, c.body, c.header...)
				if c.stream {
					r.GetBody = nil
				}
				var bodies, attempts []string
				got, err := retrying(t, r, func(r *http.Request) (*http.Response, error) {
					if r.Body != nil {
						b, _ := io.ReadAll(r.Body)
						bodies = append(bodies, string(b))
					}
					attempts = append(attempts, r.Header.Get(resilience.HeaderAttempt))
					a, _ := answer(r, 503)
					return a, nil
				})
				if err != nil || got.StatusCode != http.StatusServiceUnavailable || len(attempts) != c.tries {
					t.Errorf("got %v, %v after %d tries, want %d", got, err, len(attempts), c.tries)
				}
				if want := []string{"1", "2", "3"}[:c.tries]; !slices.Equal(attempts, want) {
					t.Errorf("attempts %v, want %v", attempts, want)
				}
				for i, b := range bodies {
					if b != c.body {
						t.Errorf("try %d sent %q", i+1, b)
					}
				}
			})
		})
	}
}

func TestTransportDrainsAndClosesWhatItRetries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var bodies []*tracked
		got, err := retrying(t, request(t, "GET", ""), func(r *http.Request) (*http.Response, error) {
			a, b := answer(r, []int{500, 503, 502}[len(bodies)])
			bodies = append(bodies, b)
			return a, nil
		})
		if err != nil || got.StatusCode != http.StatusBadGateway || len(bodies) != 3 {
			t.Fatalf("got %v, %v", got, err)
		}
		for i, b := range bodies[:2] {
			if !b.read || !b.closed {
				t.Errorf("answer %d: read %v, closed %v", i+1, b.read, b.closed)
			}
		}
		if bodies[2].closed {
			t.Error("the last answer's body is closed")
		}
		if text, err := io.ReadAll(got.Body); err != nil || string(text) != "body of Bad Gateway" {
			t.Errorf("read %q, %v", text, err)
		}
		_ = got.Body.Close()
		if !bodies[2].closed {
			t.Error("the last answer's body is still open")
		}
	})
}

func TestTransportHonoursRetryAfter(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]func() string{
		"seconds": func() string { return "7" },
		"date":    func() string { return time.Now().Add(7 * time.Second).UTC().Format(http.TimeFormat) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				began, tries := time.Now(), 0
				got, err := retrying(t, request(t, "GET", ""), func(r *http.Request) (*http.Response, error) {
					tries++
					if tries == 1 {
						a, _ := answer(r, 429, "Retry-After", value())
						return a, nil
					}
					a, _ := answer(r, 200)
					return a, nil
				})
				if err != nil || got.StatusCode != http.StatusOK || time.Since(began) != 7*time.Second {
					t.Errorf("got %v, %v after %v", got, err, time.Since(began))
				}
			})
		})
	}
}

func TestTransportPassesOnTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Timeout(1500*time.Millisecond))
		var timeout string
		_, _ = resilience.NewTransport(p, resilience.TransportConfig{
			Base: roundTrip(func(r *http.Request) (*http.Response, error) {
				timeout = r.Header.Get(resilience.HeaderTimeout)
				return nil, errDown
			}),
		}).RoundTrip(request(t, "GET", ""))
		if timeout != "1500" {
			t.Errorf("the header says %q", timeout)
		}
	})
}

func TestTransportLeavesTheRequestAlone(t *testing.T) {
	t.Parallel()
	r := request(t, "GET", "")
	_, _ = retrying(t, r, func(r *http.Request) (*http.Response, error) {
		a, _ := answer(r, 200)
		return a, nil
	})
	if len(r.Header) != 0 {
		t.Errorf("headers %v", r.Header)
	}
}

func TestTransportClosesABodyThatItDoesNotSend(t *testing.T) {
	t.Parallel()
	b, p := breaker(t, resilience.BreakerConfig{})
	b.ForceOpen()
	body := &tracked{Reader: strings.NewReader("b")}
	r := request(t, "POST", "")
	r.Body = body
	_, err := resilience.NewTransport(p, resilience.TransportConfig{
		Pick: func(_ *http.Request, p *resilience.Pipeline) *resilience.Pipeline { return p },
	}).RoundTrip(r)
	if _, ok := errors.AsType[*resilience.RejectedError](err); !ok || !body.closed {
		t.Errorf("got %v, closed %v", err, body.closed)
	}
}

func TestTransportHasAPipelineForEachHost(t *testing.T) {
	t.Parallel()
	var registry resilience.Registry
	p := pipeline(t, resilience.NewBreaker(resilience.BreakerConfig{Consecutive: 1}))
	transport := resilience.NewTransport(p, resilience.TransportConfig{
		Registry: &registry, MaxHosts: 2,
		Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host == "bad" {
				return nil, errDown
			}
			a, _ := answer(r, 200)
			return a, nil
		}),
	})
	get := func(host string) error {
		r := request(t, "GET", "")
		r.URL.Host = host
		a, err := transport.RoundTrip(r)
		if err == nil {
			_ = a.Body.Close()
		}
		return err
	}
	_ = get("bad")
	if err := get("good"); err != nil {
		t.Errorf("the good host: %v", err)
	}
	if _, ok := errors.AsType[*resilience.RejectedError](get("bad")); !ok {
		t.Error("the bad host is not refused")
	}
	_ = get("third")
	var names []string
	for _, s := range registry.List() {
		names = append(names, strings.TrimPrefix(s.Name, t.Name()+"/"))
	}
	if want := []string{"bad", "third"}; !slices.Equal(names, want) {
		t.Errorf("hosts %v, want %v: the closed one makes room", names, want)
	}
}

func TestTransportReturnsItsErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		got, err := retrying(t, request(t, "GET", ""), func(r *http.Request) (*http.Response, error) {
			if tries++; tries == 3 {
				return nil, errDown
			}
			a, _ := answer(r, 500)
			return a, nil
		})
		status, ok := errors.AsType[*resilience.StatusError](err)
		if got != nil || !ok || status.Code != 500 || !errors.Is(err, errDown) {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

func TestTransportDrainsTheLosersOfAHedge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int64
		loser := make(chan *tracked, 1)
		p := pipeline(t, resilience.Hedge(time.Second, 2))
		got, err := resilience.NewTransport(p, resilience.TransportConfig{
			Base: roundTrip(func(r *http.Request) (*http.Response, error) {
				first := tries.Add(1) == 1
				if first {
					time.Sleep(time.Minute) // does not heed its context
				}
				a, b := answer(r, 200)
				if first {
					loser <- b
				}
				return a, nil
			}),
		}).RoundTrip(request(t, "GET", ""))
		if err != nil || got.Request.Context().Err() != nil {
			t.Fatalf("got %v, %v", got, err)
		}
		if text, err := io.ReadAll(got.Body); err != nil || string(text) != "body of OK" {
			t.Errorf("read %q, %v", text, err)
		}
		_ = got.Body.Close()
		b := <-loser
		synctest.Wait()
		if !b.closed {
			t.Error("the loser's body is open")
		}
	})
}
