package cqrs_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// At the stop the database refuses one batch, which is given back. It would take the next, of the same key.
func TestRule04_BehindWhatIsGivenBackAtTheStopNothingRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes, cfg.MaxBatch = 1, 1
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(context.Context, note) error { time.Sleep(time.Second); return nil })
		away := time.Now().Add(1500 * time.Millisecond) // until then the first message runs once
		b.refuse = func(*tables) error {
			if time.Now().Before(away) {
				return driver.ErrBadConn
			}
			return nil
		}
		s.run()
		synctest.Wait()
		one, two := noteMsg("1", "k", ""), noteMsg("2", "k", "")
		s.deliver("shop.commands", one, two)
		time.Sleep(500 * time.Millisecond)
		s.stop()
		if !nacked(one) || !nacked(two) {
			t.Errorf("given back %t, %t, want both: the second may not run before the first", nacked(one), nacked(two))
		}
	})
}

// At the stop a handler does not return in time, and its message is given back. What is behind it is not parked before it.
func TestRule04_BehindWhatIsCutOffAtTheStopNothingIsParked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes, cfg.MaxBatch, cfg.Grace, cfg.HandlerTimeout = 1, 1, time.Second, time.Hour
		s := newService(t, b, catalog(), cfg)
		done := make(chan struct{})
		cqrs.On(s.p, func(context.Context, note) error { <-done; return nil })
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.p.Run(ctx) }()
		synctest.Wait()
		one, two := noteMsg("1", "k", ""), noteMsg("2", "k", "")
		s.deliver("shop.commands", one, two)
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, cqrs.ErrHung) {
			t.Errorf("Run = %v, want ErrHung", err)
		}
		close(done)
		if !nacked(one) || !nacked(two) {
			t.Errorf("given back %t, %t, want both; parked %v", nacked(one), nacked(two), b.parkedIDs())
		}
	})
}
