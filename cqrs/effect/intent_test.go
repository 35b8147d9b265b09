package effect_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/effect"
)

func TestRule28_TheCallIsMadeAfterTheCommitAndAnsweredInAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h, stop := w.start(effect.Config{}, w.effect())
		defer stop()
		err := w.store.do(t.Context(), func(ctx context.Context) error {
			if _, err := h(ctx, pay{ID: "1", Cents: 5}); !errors.Is(err, cqrs.ErrDeferred) {
				return fmt.Errorf("the handler returned %w", err)
			}
			w.wantCalls("")
			return errors.New("undone")
		})
		if err == nil || err.Error() != "undone" {
			t.Fatal(err)
		}
		w.wantCalls("")
		w.must(w.send(h, "2", 7))
		w.wantCalls("call key-2")
		w.wantReply("2", "{ref-key-2} <nil>")
		w.wantState(0, 0)
		if !slices.Equal(w.applied, []string{"paid 2"}) {
			t.Errorf("applied %q", w.applied)
		}
	})
}

func TestRule28_IntentMayRefuse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h, stop := w.start(effect.Config{}, w.effect())
		defer stop()
		if err := w.send(h, "1", 0); cqrs.AsRejection(err) == nil {
			t.Fatalf("err = %v", err)
		}
		w.wantCalls("")
		w.wantState(0, 0)
	})
}

// Without a runner intents wait; the next one carries them out without asking, since nobody had called.
func TestRule28_IntentsWaitForARunner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := w.effect()
		e.Ask = w.provider.ask
		idle := effect.Handler(effect.NewWith(w.reply, w.store, effect.Config{}), e)
		w.must(w.send(idle, "1", 5))
		w.wantState(1, 0)
		_, stop := w.start(effect.Config{}, e)
		defer stop()
		w.wantCalls("call key-1")
		w.wantReply("1", "{ref-key-1} <nil>")
	})
}

func TestRule28_InDoubtIsAskedAboutFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.answer = func(n int, _ string) error {
			if n == 1 {
				return context.DeadlineExceeded // charged, but the answer is lost
			}
			return nil
		}
		e := w.effect()
		e.Ask = w.provider.ask
		h, stop := w.start(effect.Config{}, e)
		defer stop()
		w.must(w.send(h, "1", 5))
		w.wantState(1, 0)
		time.Sleep(time.Second)
		w.wantCalls("call key-1, ask key-1")
		w.wantReply("1", "{ref-key-1} <nil>")
	})
}

func TestRule28_NotSeenIsSentUnderTheSameKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.before = func(n int, _ string) error {
			if n == 1 {
				return errors.New("connection reset")
			}
			return nil
		}
		e := w.effect()
		e.Ask = w.provider.ask
		h, stop := w.start(effect.Config{}, e)
		defer stop()
		w.must(w.send(h, "1", 5))
		time.Sleep(time.Second)
		w.wantCalls("call key-1, ask key-1, call key-1")
		w.wantReply("1", "{ref-key-1} <nil>")
	})
}

func TestRule28_ProvidersThatCannotBeAskedGetTheSameKeyAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.answer = func(n int, _ string) error {
			if n < 4 {
				return errors.New("lost")
			}
			return nil
		}
		h, stop := w.start(effect.Config{}, w.effect())
		defer stop()
		w.must(w.send(h, "1", 5))
		time.Sleep(10 * time.Second)
		w.wantCalls("call key-1, call key-1, call key-1, call key-1")
		w.wantReply("1", "{ref-key-1} <nil>")
	})
}

// A question that fails says nothing about the call, even if the question itself was certainly not executed.
func TestRule28_AFailedQuestionLeavesTheDoubt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		asked := 0
		w.provider.answer = func(int, string) error { return errors.New("lost") }
		e := w.effect()
		e.Ask = func(ctx context.Context, key string, c charge) (approval, error) {
			if asked++; asked < 3 {
				return approval{}, cqrs.ErrNotExecuted
			}
			return w.provider.ask(ctx, key, c)
		}
		h, stop := w.start(effect.Config{}, e)
		defer stop()
		w.must(w.send(h, "1", 5))
		time.Sleep(10 * time.Second)
		w.wantCalls("call key-1, ask key-1")
		w.wantReply("1", "{ref-key-1} <nil>")
	})
}

func TestRule28_NeverPastWhatTheProviderRemembers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.before = func(int, string) error { return errors.New("down") }
		e := w.effect()
		e.Keep = 10 * time.Second
		h, stop := w.start(effect.Config{MaxBackoff: 3 * time.Second}, e)
		defer stop()
		w.must(w.send(h, "1", 5))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		calls := w.provider.log()
		if strings.Count(calls, "call") < 4 {
			t.Errorf("calls %q", calls)
		}
		time.Sleep(time.Hour)
		w.wantCalls(calls)
		w.wantState(0, 1)
		w.wantReply("1", "")
	})
}

func TestRule28_AttemptsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.before = func(int, string) error { return errors.New("down") }
		h, stop := w.start(effect.Config{Attempts: 3}, w.effect())
		defer stop()
		w.must(w.send(h, "1", 5))
		time.Sleep(time.Hour)
		w.wantCalls("call key-1, call key-1, call key-1")
		w.wantState(0, 1)
	})
}

// What no database keeps, or what one would cut, is refused by name before it is written.
func TestNamesAndKeysThatNoStoreKeepsAreRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := w.effect()
		for _, wrong := range []string{"a\x00b", "a\xffb", strings.Repeat("é", 201)} {
			e.Name = wrong
			r := effect.NewWith(w.reply, w.store, effect.Config{})
			effect.Handler(r, e)
			if err := r.Validate(); err == nil || !strings.Contains(err.Error(), "Effect.Name") {
				t.Errorf("Validate with the name %q = %v", wrong, err)
			}
		}
		e = w.effect()
		e.Intent = func(_ context.Context, c pay) (string, charge, error) { return c.ID, charge{c.Cents}, nil }
		h, stop := w.start(effect.Config{}, e)
		defer stop()
		for _, wrong := range []string{"", "a\x00b", "a\xffb", strings.Repeat("é", 256)} {
			if err := w.send(h, wrong, 5); err == nil || !strings.Contains(err.Error(), "key") {
				t.Errorf("the key %q: %v", wrong, err)
			}
		}
		w.must(w.send(h, strings.Repeat("é", 255), 5))
		synctest.Wait()
	})
}

// There may be no bound to speak of.
func TestLimitsMayBeVeryLarge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		cfg := effect.Config{Concurrency: math.MaxInt, Backlog: math.MaxInt, Lease: math.MaxInt64}
		h, stop := w.start(cfg, w.effect())
		defer stop()
		w.must(w.send(h, "1", 5))
		w.wantReply("1", "{ref-key-1} <nil>")
	})
}

// With an owner that databases do not take no lease would ever be had.
func TestOwnersThatNoStoreKeepsAreRefused(t *testing.T) {
	t.Parallel()
	for _, owner := range []string{"a\x00b", "a\xffb"} {
		if err := (effect.Config{Owner: owner}).Validate(); err == nil || !strings.Contains(err.Error(), "Owner is") {
			t.Errorf("Validate of the owner %q = %v", owner, err)
		}
	}
}
