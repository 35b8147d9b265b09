package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/surge-go/surge/resilience"
)

// gate lets requests pass as long as there is room for the orders they ask for. The room is asked for in short
// intervals; in between each request takes a place of what was left.
type gate struct {
	cfg    Admission
	places chan struct{}
}

// newGate makes a gate that is closed until the first reading, if requests may wait for it.
func newGate(cfg Admission) *gate {
	g := &gate{cfg: cfg, places: make(chan struct{}, cfg.Limit)}
	if cfg.Wait <= 0 {
		g.refill(cfg.Limit)
	}
	return g
}

// refill makes n places, whatever was left of the last ones. Those who wait take theirs at once, and no more than that.
func (g *gate) refill(n int) {
	for left := true; left; {
		select {
		case <-g.places:
		default:
			left = false
		}
	}
	for range min(n, cap(g.places)) {
		g.places <- struct{}{}
	}
}

func (g *gate) run(ctx context.Context, client *http.Client) {
	tick := time.NewTicker(g.cfg.Interval)
	defer tick.Stop()
	for heard := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		open, err := g.cfg.Gauge(client)
		switch {
		case err == nil:
			heard = time.Now()
			g.refill(max(0, g.cfg.Limit-open))
		case time.Since(heard) < g.cfg.Wait:
			g.refill(0)
		default:
			g.refill(g.cfg.Limit)
		}
	}
}

// wrap makes requests wait for a place, first come, first served.
func (g *gate) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.enter(r.Context()) {
			retryIn(w, time.Second)
			w.Header().Set(resilience.HeaderOutcome, "not-executed")
			problem(w, http.StatusTooManyRequests, "Too many orders are under way. Nothing was done.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (g *gate) enter(ctx context.Context) bool {
	select {
	case <-g.places:
		return true
	default:
	}
	if g.cfg.Wait <= 0 {
		return false
	}
	t := time.NewTimer(g.cfg.Wait)
	defer t.Stop()
	select {
	case <-g.places:
		return true
	case <-t.C:
		return false
	case <-ctx.Done():
		return false
	}
}
