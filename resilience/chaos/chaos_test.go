package chaos_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/resilience"
	"github.com/surge-go/surge/resilience/chaos"
)

func injector(t *testing.T, seed uint64, faults ...chaos.Fault) *chaos.Injector {
	t.Helper()
	in, err := chaos.New(chaos.Config{Seed: seed, Faults: faults})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// outcomes returns what n calls became, and how many ran.
func outcomes(t *testing.T, in *chaos.Injector, n int) (got []resilience.Outcome, ran int) {
	t.Helper()
	for range n {
		err := in.Run(t.Context(), func(context.Context) error { ran++; return nil })
		got = append(got, resilience.OutcomeOf(err))
	}
	return got, ran
}

func TestTheSameSeedGivesTheSameFaults(t *testing.T) {
	t.Parallel()
	faults := []chaos.Fault{
		{Rate: 0.2, Outcome: resilience.Failed}, {Rate: 0.2, Outcome: resilience.InDoubt},
	}
	one, _ := outcomes(t, injector(t, 7, faults...), 200)
	two, _ := outcomes(t, injector(t, 7, faults...), 200)
	other, _ := outcomes(t, injector(t, 8, faults...), 200)
	if !slices.Equal(one, two) {
		t.Error("the same seed gave other faults")
	}
	if slices.Equal(one, other) {
		t.Error("another seed gave the same faults")
	}
}

func TestRatesAndOutcomes(t *testing.T) {
	t.Parallel()
	const calls = 20_000
	in := injector(t, 1, chaos.Fault{Rate: 0.1, Outcome: resilience.NotExecuted},
		chaos.Fault{Rate: 0.5, Outcome: resilience.InDoubt})
	got, ran := outcomes(t, in, calls)
	share := make(map[resilience.Outcome]float64)
	for _, o := range got {
		share[o] += 1.0 / calls
	}
	near := func(name string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 0.02 {
			t.Errorf("%s: %.3f, want %.3f", name, got, want)
		}
	}
	near("not executed", share[resilience.NotExecuted], 0.1)
	near("in doubt", share[resilience.InDoubt], 0.45)
	near("ok", share[resilience.OK], 0.45)
	near("ran", float64(ran)/calls, 0.45+0.225) // one half of the calls in doubt has run
	near("hits", float64(in.Hits())/calls, 0.55)
}

func TestSwitchAndSet(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	in, err := chaos.New(chaos.Config{Off: true, Faults: []chaos.Fault{{Rate: 1, Outcome: resilience.Failed}}})
	if err != nil {
		t.Fatal(err)
	}
	call := func() error { return in.Run(t.Context(), func(context.Context) error { return nil }) }
	if err := call(); err != nil {
		t.Errorf("off: %v", err)
	}
	in.Switch(true)
	if err := call(); !errors.Is(err, chaos.ErrInjected) {
		t.Errorf("on: %v", err)
	}
	if err := in.Set(chaos.Fault{Rate: 1, Outcome: resilience.NotExecuted, Err: boom}); err != nil {
		t.Fatal(err)
	}
	if err := call(); !errors.Is(err, boom) || resilience.OutcomeOf(err) != resilience.NotExecuted {
		t.Errorf("set: %v", err)
	}
	if err := in.Set(chaos.Fault{Rate: 2}); err == nil {
		t.Error("took a rate of 2")
	}
	if err := call(); !errors.Is(err, boom) {
		t.Errorf("after a bad set: %v", err)
	}
}

func TestValidateReportsAll(t *testing.T) {
	t.Parallel()
	_, err := chaos.New(chaos.Config{Faults: []chaos.Fault{{Rate: math.NaN()}, {Latency: -1}, {Outcome: 9}}})
	for _, want := range []string{"Faults[0].Rate", "Faults[1].Latency", "Faults[2].Outcome"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %s", err, want)
		}
	}
}

func TestLatency(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		in := injector(t, 1, chaos.Fault{Rate: 1, Latency: time.Second})
		began := time.Now()
		if got, ran := outcomes(t, in, 1); got[0] != resilience.OK || ran != 1 || time.Since(began) != time.Second {
			t.Errorf("got %v, ran %d, after %v", got, ran, time.Since(began))
		}
		p := resilience.Must(resilience.New("p", resilience.Timeout(time.Millisecond), in.Policy()))
		err := resilience.Run(t.Context(), p, func(context.Context) error { t.Error("ran"); return nil })
		if !errors.Is(err, context.DeadlineExceeded) || resilience.OutcomeOf(err) != resilience.NotExecuted {
			t.Errorf("got %v", err)
		}
	})
}

func TestPolicyFeedsTheBreaker(t *testing.T) {
	t.Parallel()
	in := injector(t, 1, chaos.Fault{Rate: 1, Outcome: resilience.InDoubt})
	b := resilience.NewBreaker(resilience.BreakerConfig{Consecutive: 3})
	p := resilience.Must(resilience.New("p", b, in.Policy()))
	for range 3 {
		_ = resilience.Run(t.Context(), p, func(context.Context) error { return nil })
	}
	if b.State() != resilience.Open {
		t.Error("the breaker saw nothing")
	}
}

func TestRoundTripper(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok")
	}))
	defer server.Close()
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	in := injector(t, 1, chaos.Fault{Rate: 0.5, Outcome: resilience.InDoubt})
	c := &http.Client{Transport: in.RoundTripper(base)}
	failed := 0
	for range 40 {
		a, err := c.Post(server.URL, "text/plain", strings.NewReader("b"))
		if err != nil {
			if !errors.Is(err, chaos.ErrInjected) || resilience.HTTPOutcome(a, err) != resilience.InDoubt {
				t.Errorf("got %v", err)
			}
			failed++
			continue
		}
		_ = a.Body.Close()
	}
	if failed < 10 || failed > 30 {
		t.Errorf("%d of 40 failed", failed)
	}
}

func TestHandler(t *testing.T) {
	t.Parallel()
	in := injector(t, 1)
	var ran atomic.Int64
	server := httptest.NewServer(in.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		ran.Add(1)
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, "done")
	})))
	defer server.Close()
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	p := resilience.Must(resilience.New("p"))
	c := &http.Client{Transport: resilience.NewTransport(p, resilience.TransportConfig{Base: base})}
	call := func() resilience.Outcome {
		a, err := c.Post(server.URL, "text/plain", strings.NewReader("b"))
		if err == nil {
			_ = a.Body.Close()
		}
		return resilience.HTTPOutcome(a, err)
	}
	for _, want := range []resilience.Outcome{
		resilience.OK, resilience.NotExecuted, resilience.Failed, resilience.InDoubt,
	} {
		if err := in.Set(chaos.Fault{Rate: 1, Outcome: want}); err != nil {
			t.Fatal(err)
		}
		if got := call(); got != want {
			t.Errorf("the client sees %v, want %v", got, want)
		}
	}
	before := ran.Load()
	const calls = 40
	for range calls {
		call()
	}
	if half := ran.Load() - before; half < calls/4 || half > calls*3/4 {
		t.Errorf("%d of %d calls in doubt ran, want about half", half, calls)
	}
}
