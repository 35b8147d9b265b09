package saga_test

import (
	"context"
	"errors"
	"testing"

	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
)

// A start that meets a placeholder is folded again, and begins with the state that it was given.
func TestRule23_StartBeginsWithItsStateEveryTime(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		l := newLab(t, dialect, saga.MustDefine("lab", 1, hear("first"), hear("second"), hear("third"), patient(def.pivot("p"))),
			saga.EngineConfig{}, uow.Config{})
		l.inHome(func(ctx context.Context) error { return l.Signal(ctx, "x", ping{Text: "early"}) })
		l.inHome(func(ctx context.Context) error {
			return errors.Join(l.Start(ctx, "x", labState{ID: "x"}), l.Signal(ctx, "x", ping{Text: "now"}))
		})
		if i, err := l.Get(t.Context(), "x"); err != nil || i.State.Log != "early now" || i.Step != "third" {
			t.Errorf("two signals were taken as %q, at %q, %v", i.State.Log, i.Step, err)
		}
	})
}

// A state that has no encoding is refused where it is given.
func TestStartRefusesAStateWithoutEncoding(t *testing.T) {
	t.Parallel()
	type odd struct{ F func() }
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, hear("w")), saga.EngineConfig{}, uow.Config{})
	s := saga.Register(l.engine, saga.MustDefine("odd", 1, saga.Wait[odd, ping]{Name: "w"}))
	l.inHome(func(ctx context.Context) error {
		if s.Start(ctx, "x", odd{}) == nil {
			t.Error("the start was taken")
		}
		return nil
	})
}
