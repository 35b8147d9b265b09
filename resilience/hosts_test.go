package resilience_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/resilience"
)

// onTransition is an observer that hears of transitions alone.
type onTransition func()

func (onTransition) Attempt(ctx context.Context, _ string, _ int) (context.Context, func(error)) {
	return ctx, nil
}
func (onTransition) Call(context.Context, string, time.Duration, error)      {}
func (f onTransition) Transition(string, resilience.State, resilience.State) { f() }

// An observer may report through the transport that it observes, whoever has noticed the transition.
func TestTransportMayBeUsedByItsObserver(t *testing.T) {
	t.Parallel()
	var tr *resilience.Transport
	get := func(host string) {
		r := request(t, "GET", "")
		r.URL.Host = host
		if a, err := tr.RoundTrip(r); err == nil {
			_ = a.Body.Close()
		}
	}
	reports := false
	p := pipeline(t, resilience.NewBreaker(resilience.BreakerConfig{Consecutive: 1, Cooldown: 1})).
		Observe(onTransition(func() {
			if reports {
				get("alerts")
			}
		}))
	tr = resilience.NewTransport(p, resilience.TransportConfig{
		MaxHosts: 1,
		Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host != "alerts" {
				return nil, errDown
			}
			a, _ := answer(r, http.StatusOK)
			return a, nil
		}),
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		get("down") // its breaker is open, and half-open as soon as somebody looks
		reports = true
		get("another") // makes room
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the transport waits for its observer, and that for the transport")
	}
}

// A transport that drops a host's copy leaves alone what somebody else has listed under its name since.
func TestTransportRemovesOnlyItsOwnCopies(t *testing.T) {
	t.Parallel()
	var registry resilience.Registry
	tr := resilience.NewTransport(pipeline(t), resilience.TransportConfig{
		MaxHosts: 1, Registry: &registry,
		Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			a, _ := answer(r, http.StatusOK)
			return a, nil
		}),
	})
	get := func(host string) {
		r := request(t, "GET", "")
		r.URL.Host = host
		a, err := tr.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = a.Body.Close()
	}
	get("one")
	other := resilience.Must(resilience.New(t.Name() + "/one"))
	registry.Replace(other)
	get("two")
	if p, err := registry.Get(other.Name()); p != other {
		t.Errorf("got %v, %v", p, err)
	}
	get("three")
	if _, err := registry.Get(t.Name() + "/two"); err == nil {
		t.Error("what the transport has dropped is still listed")
	}
}

// A request for which nothing is picked has the pipeline of its host.
func TestTransportPicksTheHostsPipeline(t *testing.T) {
	t.Parallel()
	var registry resilience.Registry
	tr := resilience.NewTransport(pipeline(t), resilience.TransportConfig{
		Registry: &registry,
		Pick:     func(*http.Request, *resilience.Pipeline) *resilience.Pipeline { return nil },
		Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			a, _ := answer(r, http.StatusOK)
			return a, nil
		}),
	})
	a, err := tr.RoundTrip(request(t, "GET", ""))
	if err != nil {
		t.Fatal(err)
	}
	_ = a.Body.Close()
	if _, err := registry.Get(t.Name() + "/stock"); err != nil {
		t.Error(err)
	}
}

// A base that answers nothing at all is told of as what it is.
func TestTransportNamesABaseThatAnswersNothing(t *testing.T) {
	t.Parallel()
	tr := resilience.NewTransport(pipeline(t), resilience.TransportConfig{
		Base: roundTrip(func(*http.Request) (*http.Response, error) { return nil, nil }), //nolint:nilnil // on purpose
	})
	_, err := tr.RoundTrip(request(t, "GET", ""))
	if err == nil || !strings.Contains(err.Error(), "roundTrip returned neither") {
		t.Errorf("got %v", err)
	}
}

// The copy of a host whose breaker somebody has forced does not make room for another host while others can.
func TestTransportKeepsWhatIsForced(t *testing.T) {
	t.Parallel()
	var registry resilience.Registry
	tr := resilience.NewTransport(pipeline(t, resilience.NewBreaker(resilience.BreakerConfig{})),
		resilience.TransportConfig{
			MaxHosts: 2, Registry: &registry,
			Base: roundTrip(func(r *http.Request) (*http.Response, error) {
				a, _ := answer(r, http.StatusOK)
				return a, nil
			}),
		})
	for _, host := range []string{"forced", "a", "b", "c", "d", "e", "f", "g", "h"} {
		r := request(t, "GET", "")
		r.URL.Host = host
		a, err := tr.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = a.Body.Close()
		p, err := registry.Get(t.Name() + "/forced")
		if err != nil {
			t.Fatalf("at host %s: %v", host, err)
		}
		p.ForceClosed()
	}
}
