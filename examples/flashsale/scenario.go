package main

import (
	"context"
	"time"

	"github.com/surge-go/surge/examples/loadgen"
	"github.com/surge-go/surge/resilience"
	"github.com/surge-go/surge/resilience/chaos"
)

// mostBuyers bounds the crowd, which finds its own size below that.
const mostBuyers = 192

// A moment is something that happens at a point of the scenario, given as a part of its duration.
type moment struct {
	at   float64
	what string
	do   func(ctx context.Context, s *shop) error
}

// Parts of the duration.
const (
	spikeAt    = 0.10
	outageAt   = 0.55
	recoveryAt = 0.68
	drainAt    = 0.80
	downFor    = 0.015 // how long a crashed service stays down
	cutFor     = 0.005 // how long a service that is about to crash sells what it cannot tell of
)

// calm, rush and recovery are how eager buyers are.
var (
	calm     = loadgen.Pace{Buyers: 8, Think: 20 * time.Millisecond}
	rush     = loadgen.Pace{Buyers: mostBuyers, Hot: 0.3}
	recovery = loadgen.Pace{Buyers: mostBuyers / 2}
)

// What is wrong with the bank.
var (
	// forgetful cuts one connection in a hundred: one half of them after the bank has charged.
	forgetful = chaos.Fault{Rate: 0.01, Outcome: resilience.InDoubt}
	down      = chaos.Fault{Rate: 1, Outcome: resilience.NotExecuted}
)

// scenario is what happens, in order.
func scenario() []moment {
	pace := func(p loadgen.Pace) func(context.Context, *shop) error {
		return func(_ context.Context, s *shop) error { s.crowd.Set(p); return nil }
	}
	faults := func(f ...chaos.Fault) func(context.Context, *shop) error {
		return func(_ context.Context, s *shop) error { return s.chaos.Set(f...) }
	}
	cut := func(name string) func(context.Context, *shop) error {
		return func(_ context.Context, s *shop) error { s.services[name].cut(); return nil }
	}
	crash := func(name string) func(context.Context, *shop) error {
		return func(ctx context.Context, s *shop) error {
			s.untilOrdersComeIn(ctx)
			s.services[name].crash()
			return nil
		}
	}
	restart := func(name string) func(context.Context, *shop) error {
		return func(ctx context.Context, s *shop) error { // an interrupt comes after it: the verdict needs the service
			return s.services[name].start(context.WithoutCancel(ctx))
		}
	}
	return []moment{
		{0, "calm: a few buyers", pace(calm)},
		{spikeAt, "spike: ten times more buyers than units of one product", pace(rush)},
		{0.12 - cutFor, "the order service loses the bus, and goes on selling", cut(orderService)},
		{0.12, "the order service crashes", crash(orderService)},
		{0.12 + downFor, "the order service is back", restart(orderService)},
		{0.40, "the bank forgets to answer now and then, after it has charged", faults(forgetful)},
		{outageAt, "outage: the bank is down", faults(down)},
		{recoveryAt, "recovery: the bank works again, but still forgets", func(ctx context.Context, s *shop) error {
			s.crowd.Set(recovery)
			return faults(forgetful)(ctx, s)
		}},
		{0.72, "the payment service crashes, with all the backlog", crash(paymentService)},
		{0.72 + downFor, "the payment service is back", restart(paymentService)},
		{0.76, "the order service crashes once more", crash(orderService)},
		{0.76 + downFor, "the order service is back", restart(orderService)},
		{drainAt, "closing time: what is under way is finished", func(ctx context.Context, s *shop) error {
			s.crowd.Set(loadgen.Pace{})
			return faults()(ctx, s)
		}},
	}
}

// play lets the scenario happen, until it is over or ctx ends. It tells note what happens, and returns the busy part:
// from the spike to the outage.
func play(ctx context.Context, s *shop, duration time.Duration, note func(string)) (busy, error) {
	began := time.Now()
	at := func(part float64) time.Time { return began.Add(time.Duration(part * float64(duration))) }
	b := busy{from: at(spikeAt), until: at(outageAt)}
	for _, m := range scenario() {
		if !waitUntil(ctx, at(m.at)) {
			now := time.Now()
			return busy{from: earlier(b.from, now), until: earlier(b.until, now)}, s.reopen(context.WithoutCancel(ctx))
		}
		note(m.what)
		if err := m.do(ctx, s); err != nil {
			return b, err
		}
	}
	return b, nil
}

// untilOrdersComeIn waits until some orders more were accepted, so that a crash hits something, but not for long.
func (s *shop) untilOrdersComeIn(ctx context.Context) {
	const some = 10
	ctx, cancel := context.WithTimeout(ctx, max(s.opts.duration/20, 300*time.Millisecond))
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for want := s.crowd.Stats().Accepted + some; s.crowd.Stats().Accepted < want; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// waitUntil reports whether the time came before ctx ended.
func waitUntil(ctx context.Context, at time.Time) bool {
	t := time.NewTimer(time.Until(at))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
