package resilience_test

import (
	"net"
	"net/http"
	"testing"

	"github.com/surge-go/surge/resilience"
)

// What became of a request is not forgotten when it is redirected.
func TestHTTPOutcomeAfterARedirect(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		method string
		tries  []int // statuses; 0 is a refused connection
		want   resilience.Outcome
	}{
		"followed by a get that fails":     {"POST", []int{303, 404}, resilience.InDoubt},
		"followed by a get without server": {"POST", []int{303, 0, 0, 0}, resilience.InDoubt},
		"followed by a get":                {"POST", []int{303, 200}, resilience.OK},
		"sent elsewhere":                   {"POST", []int{307, 404}, resilience.Failed},
		"sent elsewhere, nobody there":     {"POST", []int{307, 0, 0, 0}, resilience.NotExecuted},
		"in doubt, then sent elsewhere":    {"POST", []int{502, 308, 404}, resilience.InDoubt},
		"in doubt, then twice elsewhere":   {"POST", []int{502, 308, 308, 0, 0, 0}, resilience.InDoubt},
		"a get":                            {"GET", []int{303, 404}, resilience.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tries := c.tries
			p := pipeline(t, resilience.Retry(resilience.RetryConfig{Min: 1, Max: 1}))
			client := &http.Client{Transport: resilience.NewTransport(p, resilience.TransportConfig{
				Base: roundTrip(func(r *http.Request) (*http.Response, error) {
					code := tries[0]
					tries = tries[1:]
					if code == 0 {
						return nil, &net.OpError{Op: "dial", Err: errDown}
					}
					a, _ := answer(r, code, "Location", "/elsewhere")
					return a, nil
				}),
			})}
			a, err := client.Do(request(t, c.method, "", "Idempotency-Key", "k"))
			if err == nil {
				defer a.Body.Close()
			}
			if got := resilience.HTTPOutcome(a, err); got != c.want || len(tries) > 0 {
				t.Errorf("%v, want %v; %d tries were not made", got, c.want, len(tries))
			}
		})
	}
}
