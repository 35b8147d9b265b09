package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// Four replicas are busy with handlers that are slow, but well within HandlerTimeout. What is parked gets its turn all
// the same: its lease outlasts the backlog of its lane.
func TestALeaseOutlastsTheBacklogAlsoUnderHandlerTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		tried := 0
		leases := &countLease{parking: parking{b}}
		for _, name := range []string{"one", "two", "three", "four"} {
			cfg := b.config()
			cfg.Lanes, cfg.MaxBatch, cfg.HandlerTimeout, cfg.Instance = 1, 1, 0, name
			cfg.Parking = leases
			s := newService(t, b, catalog(), cfg)
			cqrs.On(s.p, func(_ context.Context, n note) error {
				if n.Order == "parked" {
					if tried++; tried == 1 {
						return errors.New("once")
					}
					return nil
				}
				time.Sleep(900 * time.Millisecond)
				return nil
			})
			s.run()
			synctest.Wait()
		}
		b.busMu.Lock()
		ch := b.subs["shop.commands"]
		ch[0] <- noteMsg("p", "parked", "")
		for i := range 400 { // each replica has a partition of its own
			for r := range ch {
				ch[r] <- noteMsg(fmt.Sprint("m", r, "-", i), fmt.Sprint("k", r, "-", i), "")
			}
		}
		b.busMu.Unlock()
		time.Sleep(120 * time.Second)
		b.mu.Lock()
		left, calls := len(b.state.parked), leases.n
		b.mu.Unlock()
		if left > 0 {
			t.Errorf("after two minutes the message is still parked; it was leased %d times and run %d times", calls, tried)
		}
	})
}

type countLease struct {
	parking
	n int
}

func (c *countLease) Lease(ctx context.Context, g string, n int, ttl time.Duration) ([]*cqrs.Parked, error) {
	ms, err := c.parking.Lease(ctx, g, n, ttl)
	c.n += len(ms)
	return ms, err
}
