package effect_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs/effect"
	"pgregory.net/rapid"
)

// What can happen to a call.
const (
	fine = iota
	answerLost
	neverArrived
	breakerOpen
	storeFails
	fates
)

// Whatever happens to calls, answers, the store and the runner: every intent is settled and answered exactly once,
// nothing is parked, and the provider has seen one request under each key.
func TestRule28_EveryIntentIsSettledExactlyOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var (
			plan    = rapid.SliceOfN(rapid.IntRange(0, fates-1), 1, 30).Draw(rt, "fates")
			crashes = rapid.SliceOfN(rapid.IntRange(1, 4000), 0, 4).Draw(rt, "run for ms")
			intents = rapid.IntRange(1, 12).Draw(rt, "intents")
			named   = rapid.Bool().Draw(rt, "stable name")
			askable = rapid.Bool().Draw(rt, "askable")
			unsure  = rapid.SliceOfN(rapid.Bool(), intents, intents).Draw(rt, "answers to commits lost")
		)
		fault := ""
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.provider.takes = 20 * time.Millisecond
			fateOf := func(n int) int {
				if n > len(plan) {
					return fine
				}
				return plan[n-1]
			}
			w.provider.before = func(n int, _ string) error {
				switch fateOf(n) {
				case neverArrived:
					return errors.New("connection reset")
				case breakerOpen:
					return refusal{300 * time.Millisecond}
				case storeFails:
					w.store.set(errors.New("database down"), nil)
					time.AfterFunc(700*time.Millisecond, func() { w.store.set(nil, nil) })
				}
				return nil
			}
			w.provider.answer = func(n int, _ string) error {
				if fateOf(n) == answerLost {
					return context.DeadlineExceeded
				}
				return nil
			}
			e := w.effect()
			if askable {
				e.Ask = w.provider.ask
			}
			cfg := effect.Config{Lease: 2 * time.Second, Concurrency: 3, Backlog: 4}
			if named {
				cfg.Owner = "payments"
			}
			h, stop := w.start(cfg, e)
			for i, lost := range unsure {
				if lost {
					w.store.loseAnswer()
				}
				if err := w.send(h, fmt.Sprint(i), 5); err != nil && !errors.Is(err, errUnsure) {
					t.Fatal(err)
				}
			}
			for _, ms := range crashes {
				time.Sleep(time.Duration(ms) * time.Millisecond)
				w.store.set(errors.New("killed"), nil) // nothing that this runner still does reaches the store
				stop()
				w.store.set(nil, nil)
				_, stop = w.start(cfg, e)
			}
			time.Sleep(10 * time.Minute)
			open, parked := w.store.state()
			stop()
			replies, applied, charged := len(w.replies), len(w.applied), len(w.provider.charged)
			if open+parked != 0 || replies != intents || applied != intents || charged != intents {
				fault = fmt.Sprintf("of %d: %d open, %d parked, %d replies, %d applied, %d charged",
					intents, open, parked, replies, applied, charged)
			}
		})
		if fault != "" {
			rt.Fatal(fault)
		}
	})
}
