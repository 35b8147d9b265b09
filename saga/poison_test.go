package saga_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
)

// tickUntil fires timers, which must work every time, until ok.
func tickUntil(t *testing.T, e *saga.Engine, ok func() bool, say func() string) {
	t.Helper()
	eventually(t, func() bool {
		_, err := e.Tick(t.Context())
		must(t, err)
		return ok()
	}, say)
}

// soon is a Wait that gives up almost at once.
func soon(name string) saga.Wait[labState, ping] {
	w := hear(name)
	w.Timeout = 20 * time.Millisecond
	return w
}

// A Local that sets itself a deadline and misses it fails like any other: it is tried again, then parked, and nobody
// else's timers wait for it.
func TestLocalThatMissesItsOwnDeadlineIsParked(t *testing.T) {
	t.Parallel()
	runs := 0
	slow := saga.Local[labState]{
		Name: "slow", Retry: cqrs.Retry{Attempts: 3, Min: time.Millisecond, Max: time.Millisecond},
		Do: func(ctx context.Context, s *labState) error {
			if s.ID != "bad" {
				return nil
			}
			runs++
			ctx, cancel := context.WithTimeout(ctx, 0)
			defer cancel()
			return fmt.Errorf("ask the neighbor: %w", ctx.Err())
		},
	}
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, slow, soon("w")), saga.EngineConfig{}, uow.Config{})
	l.start("bad")
	l.start("good")
	var bad, good saga.Instance[labState]
	tickUntil(t, l.engine, func() bool {
		bad, _ = l.Get(t.Context(), "bad")
		good, _ = l.Get(t.Context(), "good")
		return bad.Status == saga.Parked && good.Status == saga.Compensated
	}, func() string { return fmt.Sprintf("bad is %s after %d runs, good is %s", bad.Status, runs, good.Status) })
	if runs != 3 {
		t.Errorf("the local ran %d times, want 3", runs)
	}
}
