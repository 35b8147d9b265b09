package gateway_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/examples/gateway"
)

// backend answers a gateway's requests without a network.
type backend func(r *http.Request) string

// RoundTrip implements http.RoundTripper.
func (b backend) RoundTrip(r *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	_, err := rec.WriteString(b(r))
	return rec.Result(), err
}

// When room comes, it is for as many of those who wait as it holds; the others wait on, and are told no in the end.
func TestAdmissionLetsInOnlyAsManyOfThoseWhoWaitAsThereIsRoomFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const limit, crowd = 5, 100
		var full atomic.Bool
		full.Store(true)
		var underWay, refused atomic.Int64
		closing := make(chan struct{})
		g, err := gateway.New(gateway.Config{
			Services: map[string][]string{"order": {"http://order"}},
			Routes: []gateway.Route{{
				Upstream: "POST /api/x", Service: "order", Downstream: "/v1/x", Admit: true, Timeout: time.Minute,
			}},
			Admission: gateway.Admission{
				Limit: limit, Wait: 5 * time.Second, Interval: 50 * time.Millisecond,
				Gauge: func(*http.Client) (int, error) {
					if full.Load() {
						return limit, nil
					}
					return int(underWay.Load()), nil
				},
			},
			Transport: backend(func(*http.Request) string {
				underWay.Add(1)
				<-closing
				return ""
			}),
		})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		wg.Go(func() { _ = g.Run(ctx) })
		for range crowd {
			wg.Go(func() {
				rec := httptest.NewRecorder()
				g.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/api/x", strings.NewReader("")))
				if rec.Code == http.StatusTooManyRequests {
					refused.Add(1)
				}
			})
		}
		time.Sleep(time.Second)
		if n := underWay.Load(); n != 0 {
			t.Errorf("%d are let in where there is no room", n)
		}
		full.Store(false)
		time.Sleep(time.Minute / 2)
		if n := underWay.Load(); n != limit || refused.Load() != crowd-limit {
			t.Errorf("%d are let in and %d refused, with room for %d", n, refused.Load(), limit)
		}
		close(closing)
		stop()
		wg.Wait()
	})
}
