package resilience_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/surge-go/surge/resilience"
)

// model is the breaker as its documentation tells it, with all of its calls in one list.
type model struct {
	cfg        resilience.BreakerConfig
	state      resilience.State
	forced     bool
	since      time.Time // of the window, while closed
	ended      []bool    // verdicts in the window, true is a success
	openUntil  time.Time
	recovered  int
	generation int
}

// flying is a call under way, in the breaker and in the model.
type flying struct {
	answer     chan error
	done       chan error
	probe      bool
	counted    bool
	deadline   time.Time
	generation int
}

func (m *model) advance(now time.Time, calls []*flying) {
	if m.forced {
		return
	}
	if m.state == resilience.HalfOpen {
		for _, f := range calls {
			if f.probe && f.generation == m.generation && !now.Before(f.deadline) {
				m.open(f.deadline)
				break
			}
		}
	}
	if m.state == resilience.Open && !now.Before(m.openUntil) {
		m.state, m.recovered = resilience.HalfOpen, 0
		m.generation++
	}
}

func (m *model) open(at time.Time) {
	m.state, m.openUntil = resilience.Open, at.Add(m.cfg.Cooldown)
	m.generation++
}

func (m *model) close(now time.Time) {
	m.state, m.ended, m.since = resilience.Closed, nil, now
	m.generation++
}

// admits reports whether a call passes, and fills in what it means.
func (m *model) admits(now time.Time, f *flying, calls []*flying) bool {
	m.advance(now, calls)
	f.generation = m.generation
	switch m.state {
	case resilience.Closed:
		f.counted = !m.forced
		return true
	case resilience.HalfOpen:
		busy := 0
		for _, other := range calls {
			if other.probe && other.generation == m.generation {
				busy++
			}
		}
		f.probe, f.deadline = true, now.Add(m.cfg.ProbeTimeout)
		return busy+m.recovered < m.cfg.Probes
	}
	return false
}

func (m *model) settle(now time.Time, f *flying, err error, calls []*flying) {
	m.advance(now, calls)
	if f.generation != m.generation || errors.Is(err, context.Canceled) {
		return
	}
	switch {
	case f.probe && err != nil:
		m.open(now)
	case f.probe:
		if m.recovered++; m.recovered >= m.cfg.Probes {
			m.close(now)
		}
	case f.counted:
		if now.Sub(m.since) > m.cfg.Window {
			m.since, m.ended = now, nil
		}
		m.ended = append(m.ended, err == nil)
		if err != nil && m.trips() {
			m.open(now)
		}
	}
}

func (m *model) trips() bool {
	failed, inRow := 0, 0
	for _, ok := range m.ended {
		if ok {
			inRow = 0
			continue
		}
		failed++
		inRow++
	}
	return inRow >= m.cfg.Consecutive ||
		len(m.ended) >= m.cfg.MinCalls && float64(failed) >= m.cfg.FailureRatio*float64(len(m.ended))
}

// machine drives a breaker and its model in step.
type machine struct {
	m     *model
	b     *resilience.Breaker
	p     *resilience.Pipeline
	calls []*flying
}

func (x *machine) call(rt *rapid.T) {
	f := &flying{answer: make(chan error), done: make(chan error, 1)}
	admitted := x.m.admits(time.Now(), f, x.calls)
	ran := false
	go func() {
		f.done <- resilience.Run(context.Background(), x.p, func(context.Context) error {
			ran = true
			return <-f.answer
		})
	}()
	synctest.Wait()
	if ran {
		x.calls = append(x.calls, f)
	}
	if ran != admitted {
		rt.Fatalf("the call ran: %v, the model says %v", ran, admitted)
	}
}

func (x *machine) finish(rt *rapid.T) {
	if len(x.calls) == 0 {
		return
	}
	i := rapid.IntRange(0, len(x.calls)-1).Draw(rt, "call")
	err := rapid.SampledFrom([]error{nil, errDown, errDown, context.Canceled}).Draw(rt, "error")
	f := x.calls[i]
	x.m.settle(time.Now(), f, err, x.calls)
	x.calls = append(x.calls[:i:i], x.calls[i+1:]...)
	f.answer <- err
	<-f.done
}

func (x *machine) sleep(rt *rapid.T) {
	time.Sleep(rapid.SampledFrom([]time.Duration{
		100 * time.Millisecond, time.Second, 1900 * time.Millisecond, 2 * time.Second, 3500 * time.Millisecond,
	}).Draw(rt, "sleep"))
}

// operate is what an operator does, seldom enough that the breaker also acts by itself.
func (x *machine) operate(rt *rapid.T) {
	switch rapid.IntRange(0, 20).Draw(rt, "operator") {
	case 0:
		x.b.ForceOpen()
		x.m.state, x.m.forced = resilience.Open, true
		x.m.generation++
	case 1:
		x.b.ForceClosed()
		x.m.state, x.m.forced = resilience.Closed, true
		x.m.generation++
	case 2, 3:
		x.b.Reset()
		x.m.forced = false
		x.m.close(time.Now())
	}
}

func (x *machine) check(rt *rapid.T) {
	x.m.advance(time.Now(), x.calls)
	if got := x.b.State(); got != x.m.state {
		rt.Fatalf("the breaker is %v, the model %v", got, x.m.state)
	}
}

func (x *machine) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"call": x.call, "call again": x.call, "finish": x.finish, "finish again": x.finish,
		"sleep": x.sleep, "operate": x.operate, "": x.check,
	}
}

// play runs one scenario and lets every call end.
func (x *machine) play(rt *rapid.T) {
	defer func() {
		for _, f := range x.calls {
			f.answer <- nil
			<-f.done
		}
	}()
	for range 5 {
		rt.Repeat(x.actions())
	}
}

func TestBreakerBehavesAsItsModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		cfg := resilience.BreakerConfig{
			FailureRatio: rapid.SampledFrom([]float64{0.3, 0.5, 1}).Draw(rt, "ratio"),
			MinCalls:     rapid.IntRange(1, 6).Draw(rt, "min calls"),
			Consecutive:  rapid.IntRange(1, 4).Draw(rt, "consecutive"),
			Probes:       rapid.IntRange(1, 3).Draw(rt, "probes"),
			Window:       3 * time.Second, Cooldown: 2 * time.Second, ProbeTimeout: time.Second,
		}
		var failed any
		synctest.Test(t, func(*testing.T) {
			defer func() { failed = recover() }()
			b := resilience.NewBreaker(cfg)
			x := &machine{
				m: &model{cfg: cfg, since: time.Now()}, b: b, p: resilience.Must(resilience.New("model", b)),
			}
			x.play(rt)
		})
		if failed != nil {
			panic(failed) // rapid's way to stop, on the goroutine where rapid expects it
		}
	})
}
