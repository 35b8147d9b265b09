package resilience_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/resilience"
)

// frankly is a base that answers with its context's own error once that has ended, as HTTP/2 does.
func frankly(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// A try whose time is up is a failure, whatever the base makes of its context: it is retried and opens the breaker.
func TestTransportTimeoutIsNoCancellation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := resilience.NewBreaker(resilience.BreakerConfig{Consecutive: 3})
		p := pipeline(t, resilience.Retry(resilience.RetryConfig{}), b, resilience.Timeout(time.Second))
		tries := 0
		tr := resilience.NewTransport(p, resilience.TransportConfig{
			Base: roundTrip(func(r *http.Request) (*http.Response, error) { tries++; return frankly(r) }),
			Pick: func(_ *http.Request, p *resilience.Pipeline) *resilience.Pipeline { return p },
		})
		_, err := tr.RoundTrip(request(t, "GET", ""))
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if tries != 3 || b.State() != resilience.Open {
			t.Errorf("%d tries, the breaker is %v", tries, b.State())
		}
	})
}

// ending is a body that never comes, and ends with its context.
type ending struct{ ctx context.Context }

func (b ending) Read([]byte) (int, error) {
	<-b.ctx.Done()
	return 0, b.ctx.Err()
}

func (ending) Close() error { return nil }

// A body that the caller's deadline cuts off tells of the deadline, one that the caller cancels of the cancellation.
func TestTransportBodyTellsWhatEndedIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr := resilience.NewTransport(pipeline(t), resilience.TransportConfig{
			Base: roundTrip(func(r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: http.StatusOK, Body: ending{r.Context()}}, nil
			}),
		})
		read := func(ctx context.Context) error {
			a, err := tr.RoundTrip(request(t, "GET", "").WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			defer a.Body.Close()
			_, err = io.ReadAll(a.Body)
			return err
		}
		late, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := read(late); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			t.Errorf("at the deadline: %v", err)
		}
		gone, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := read(gone); !errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("canceled: %v", err)
		}
	})
}

// A base may leave the body of an empty answer out, as http.Client allows.
func TestTransportTakesAnswersWithoutBody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		codes := []int{http.StatusServiceUnavailable, http.StatusNoContent}
		a, err := retrying(t, request(t, "GET", ""), func(*http.Request) (*http.Response, error) {
			code := codes[0]
			codes = codes[1:]
			return &http.Response{StatusCode: code}, nil
		})
		if err != nil || a.StatusCode != http.StatusNoContent {
			t.Fatalf("got %v, %v", a, err)
		}
		if rest, err := io.ReadAll(a.Body); err != nil || len(rest) > 0 || a.Body.Close() != nil {
			t.Errorf("read %q, %v", rest, err)
		}
	})
}
