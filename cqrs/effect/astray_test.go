package effect_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs/effect"
)

// An intent that is committed, although the handler's lane was told that nobody knows, is this runner's and no hook has
// told it. The command comes again and is a duplicate, so nobody else will mention it.
func TestRule09_AnIntentIsCarriedOutAlthoughTheAnswerToItsCommitIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := w.effect()
		e.Ask = w.provider.ask
		h, stop := w.start(effect.Config{}, e)
		defer stop()
		w.store.loseAnswer()
		if err := w.send(h, "1", 5); !errors.Is(err, errUnsure) {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		w.wantCalls("ask key-1, call key-1")
		w.wantReply("1", "{ref-key-1} <nil>")
		w.wantState(0, 0)
	})
}

func TestRule09_AnIntentIsCarriedOutAlthoughTheAnswerToItsClaimIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		idle := effect.Handler(effect.NewWith(w.reply, w.store, effect.Config{}), w.effect())
		w.must(w.send(idle, "1", 5))
		w.store.loseAnswer()
		_, stop := w.start(effect.Config{}, w.effect())
		defer stop()
		w.wantCalls("")
		time.Sleep(time.Minute)
		w.wantCalls("call key-1")
		w.wantReply("1", "{ref-key-1} <nil>")
		w.wantState(0, 0)
	})
}

// What waits long, or is called for long, is not taken for lost.
func TestRule09_WhatTheRunnerKnowsOfIsCalledOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.takes = 9 * time.Second
		h, stop := w.start(effect.Config{Concurrency: 1}, w.effect())
		defer stop()
		for _, id := range []string{"1", "2", "3", "4", "5", "6", "7", "8"} {
			w.must(w.send(h, id, 5))
		}
		time.Sleep(2 * time.Minute)
		w.wantCalls("call key-1, call key-2, call key-3, call key-4, call key-5, call key-6, call key-7, call key-8")
		w.wantState(0, 0)
	})
}

// The store may have an intent claimed again before it has answered who gave it back.
func TestRule09_WhatIsClaimedAgainBeforeItIsKnownToBeGivenBackIsNotAstray(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.store.tardy = 2 * time.Second
		w.provider.before = func(n int, _ string) error {
			if n == 1 {
				return errors.New("no answer")
			}
			return nil
		}
		h, stop := w.start(effect.Config{}, w.effect())
		defer stop()
		w.must(w.send(h, "1", 5))
		time.Sleep(5 * time.Second)
		w.wantCalls("call key-1, call key-1")
		w.wantState(0, 0)
	})
}
