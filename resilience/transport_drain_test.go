package resilience_test

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/resilience"
)

// endless is the body of a request's answer that says nothing more, until the request's context ends.
type endless struct{ ctx context.Context }

func (e endless) Read([]byte) (int, error) {
	<-e.ctx.Done()
	return 0, e.ctx.Err()
}

func (e endless) Close() error { return nil }

// An answer that is given up must not hold up the call: its body may never end.
func TestTransportDoesNotWaitForTheBodyOfWhatItGivesUp(t *testing.T) {
	t.Parallel()
	for name, policy := range map[string]func() resilience.Policy{
		"retry": func() resilience.Policy {
			return resilience.Retry(resilience.RetryConfig{Min: time.Millisecond, Max: time.Millisecond})
		},
		"hedge": func() resilience.Policy { return resilience.Hedge(time.Millisecond, 2) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := pipeline(t, resilience.Timeout(time.Second), policy(), resilience.Timeout(300*time.Millisecond))
				var tries atomic.Int32
				base := roundTrip(func(r *http.Request) (*http.Response, error) {
					if tries.Add(1) == 1 {
						time.Sleep(2 * time.Millisecond) // a hedge has its second try under way
						a, _ := answer(r, http.StatusServiceUnavailable)
						a.Body = endless{r.Context()}
						return a, nil
					}
					time.Sleep(10 * time.Millisecond)
					a, _ := answer(r, http.StatusOK)
					return a, nil
				})
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				began := time.Now()
				got, err := resilience.NewTransport(p, resilience.TransportConfig{Base: base}).
					RoundTrip(request(t, http.MethodGet, "").WithContext(ctx))
				if took := time.Since(began); err != nil || got.StatusCode != http.StatusOK || took > 100*time.Millisecond {
					t.Fatalf("after %v: %+v, %v", took, got, err)
				}
				if b, err := io.ReadAll(got.Body); err != nil || string(b) != "body of OK" {
					t.Errorf("%q, %v", b, err)
				}
				_ = got.Body.Close()
			})
		})
	}
}
