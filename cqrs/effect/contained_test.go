package effect_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/effect"
)

// An Outcome that panics at an error that it does not know ends neither the process nor the effect: it is in doubt.
func TestOutcomeIsContained(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.answer = func(n int, _ string) error {
			if n == 1 {
				return errors.New("no answer")
			}
			return nil
		}
		e := w.effect()
		e.Ask = w.provider.ask
		h, stop := w.start(effect.Config{Outcome: func(err error) effect.Outcome {
			var known interface{ Outcome() effect.Outcome }
			_ = errors.As(err, &known)
			return known.Outcome()
		}}, e)
		defer stop()
		w.must(w.send(h, "1", 5))
		time.Sleep(time.Minute)
		w.wantCalls("call key-1, ask key-1")
		w.wantState(0, 0)
	})
}

// What a settlement returns may be an error whose methods panic: it is tried again like any other.
func TestErrorsOfSettlementsAreContained(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := w.effect()
		settle, n := e.Settle, 0
		e.Settle = func(ctx context.Context, c pay, i charge, o approval) (receipt, error) {
			if n++; n <= 5 {
				var no *cqrs.Rejection
				return receipt{}, no
			}
			return settle(ctx, c, i, o)
		}
		h, stop := w.start(effect.Config{}, e)
		defer stop()
		w.must(w.send(h, "1", 5))
		time.Sleep(time.Minute)
		w.wantReply("1", "{ref-key-1} <nil>")
		w.wantState(0, 0)
	})
}
