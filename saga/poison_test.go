package saga_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
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
	}, func() string {
		return fmt.Sprintf("bad is %s after %d runs, good is %s", bad.Status, runs, good.Status)
	})
	if runs != 3 {
		t.Errorf("the local ran %d times, want 3", runs)
	}
}

// touchy is a state that panics as it says.
type touchy struct{ Mood string }

func (s *touchy) UnmarshalJSON(data []byte) error {
	type plain touchy
	err := json.Unmarshal(data, (*plain)(s))
	panicIn(s.Mood, "decode")
	return err
}

func (s *touchy) MarshalJSON() ([]byte, error) {
	panicIn(s.Mood, "encode")
	return json.Marshal(struct{ Mood string }{s.Mood})
}

// picky is a command that its catalog entry refuses, or panics over, as it says.
type picky struct {
	cqrs.Returns[worked]
	Mood string
}

func (c picky) key() string {
	panicIn(c.Mood, "key")
	return c.Mood
}

func (c picky) check() error {
	panicIn(c.Mood, "validate")
	if c.Mood == "refuse" {
		return errors.New("it is refused")
	}
	return nil
}

func panicIn(mood, where string) {
	if mood == where {
		panic("poison")
	}
}

// Whatever of an instance panics, it alone is suspended; those that share its transaction go on.
func TestPanicSuspendsOneInstanceAlone(t *testing.T) {
	t.Parallel()
	first := saga.Wait[touchy, ping]{Name: "first", On: func(s *touchy, p ping) { s.Mood = p.Text }}
	second := saga.Wait[touchy, ping]{Name: "second"}
	send := saga.Step[touchy, picky, worked]{
		Name: "send", Timeout: time.Minute, Pivot: true, Do: func(s *touchy) picky { return picky{Mood: s.Mood} },
	}
	nothing := saga.Local[touchy]{Name: "nothing", Do: func(context.Context, *touchy) error { return nil }}
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, hear("w")), saga.EngineConfig{}, uow.Config{})
	for _, s := range []*saga.Saga[touchy]{
		saga.Register(l.engine, saga.MustDefine("pure", 1, first, second, send)),
		saga.Register(l.engine, saga.MustDefine("locals", 1, first, second, send, nothing)),
	} {
		moods := []string{"decode", "encode", "validate", "key", "good"}
		signal := func(ctx context.Context) (err error) {
			for _, mood := range moods {
				err = errors.Join(err, s.Signal(ctx, mood, ping{Text: mood}))
			}
			return err
		}
		l.inHome(func(ctx context.Context) (err error) {
			for _, mood := range moods {
				err = errors.Join(err, s.Start(ctx, mood, touchy{}))
			}
			return err
		})
		l.inHome(signal)
		l.inHome(signal)
	}
	for i, err := range l.engine.List(t.Context(), saga.Filter{}) {
		must(t, err)
		poisoned := i.Status == saga.Suspended && strings.Contains(i.Reason, "poison")
		if good := i.Key == "good"; poisoned == good || good && i.Step != "send" {
			t.Errorf("%s %s is %s at %q: %s", i.Type, i.Key, i.Status, i.Step, i.Reason)
		}
	}
}

// A migration that panics for one instance leaves the timers of the others alone.
func TestMigrationThatPanicsHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, soon("w")), saga.EngineConfig{}, uow.Config{})
	l.start("bad")
	l.start("good")
	e, _ := l.again()
	two := saga.Register(e, saga.MustDefine("lab", 2, soon("w"), hear("more")), saga.Migration[labState]{
		From: 1, Move: func(old []byte, step string) (s labState, _ string, err error) {
			err = json.Unmarshal(old, &s)
			panicIn(s.ID, "bad")
			return s, step, err
		},
	})
	tickUntil(t, e, func() bool {
		i, err := two.Get(t.Context(), "good")
		return err == nil && i.Status == saga.Compensated
	}, func() string { return "good never gets its turn" })
	for i, err := range l.engine.List(t.Context(), saga.Filter{Key: "bad"}) {
		if must(t, err); i.Status != saga.Suspended {
			t.Errorf("bad is %s", i.Status)
		}
	}
}
