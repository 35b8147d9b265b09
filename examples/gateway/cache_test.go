package gateway_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/surge-go/surge/examples/gateway"
)

func TestCacheServesGETAgainToTheSameCustomer(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	ask := door(t, gateway.Config{
		Services: map[string][]string{"inventory": {serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(w, "%d for %s", calls.Add(1), r.Header.Get(gateway.HeaderCustomer))
		})}},
		Routes: []gateway.Route{{
			Upstream: "GET /api/x", Service: "inventory", Downstream: "/v1/x", Auth: true, Cache: time.Hour,
		}},
	})
	soon := time.Now().Add(time.Minute)
	ann, bob := token(t, "ann", soon), token(t, "bob", soon)
	for _, c := range []struct{ token, path, want string }{
		{ann, "/api/x", "1 for ann"},
		{ann, "/api/x", "1 for ann"},
		{bob, "/api/x", "2 for bob"},
		{ann, "/api/x?page=2", "3 for ann"},
	} {
		if got := ask("GET", c.path, "Authorization", c.token); got.body != c.want {
			t.Errorf("%s: %+v, want %s", c.path, got, c.want)
		}
	}
}

func TestCacheDoesNotServeGETFromHEAD(t *testing.T) {
	t.Parallel()
	ask := door(t, gateway.Config{
		Services: map[string][]string{"inventory": {serve(t, echo)}},
		Routes:   []gateway.Route{{Upstream: "GET /api/x", Service: "inventory", Downstream: "/v1/x", Cache: time.Hour}},
	})
	if got := ask("HEAD", "/api/x"); got.status != 200 || got.body != "" {
		t.Fatalf("%+v", got)
	}
	if got := ask("GET", "/api/x"); got.body != `GET /v1/x customer=""` {
		t.Errorf("%+v", got)
	}
}

func TestCacheHeedsWhatTheServiceForbids(t *testing.T) {
	t.Parallel()
	for control, kept := range map[string]bool{
		"": true, "max-age=60": true, "private, max-age=60": true, "no-store": false, "private, no-store": false,
		"max-age=0,No-Store": false, "no-cache": false, `private="no-store-at-all"`: true,
	} {
		var calls atomic.Int64
		ask := door(t, gateway.Config{
			Services: map[string][]string{"order": {serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Add("Cache-Control", "public")
				w.Header().Add("Cache-Control", control)
				_, _ = fmt.Fprint(w, calls.Add(1))
			})}},
			Routes: []gateway.Route{{Upstream: "GET /api/x", Service: "order", Downstream: "/v1/x", Cache: time.Hour}},
		})
		ask("GET", "/api/x")
		if got := ask("GET", "/api/x"); (got.body == "1") != kept {
			t.Errorf("%q: the second answer is %+v", control, got)
		}
	}
}
