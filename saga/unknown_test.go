package saga_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
)

// An operator who mistypes a type or a key is told that there is no such saga.
func TestInterveneOnNothingIsNotFound(t *testing.T) {
	t.Parallel()
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, hear("w")), saga.EngineConfig{}, uow.Config{})
	for _, v := range []saga.Intervention{{Type: "labb", Key: "x"}, {Type: "lab", Key: "x"}, {Type: "lab"}, {}} {
		v.Action, v.Actor, v.Reason = saga.ActRetry, "ann", "typo"
		if err := l.engine.Intervene(t.Context(), v); !errors.Is(err, saga.ErrNotFound) {
			t.Errorf("%q %q: %v", v.Type, v.Key, err)
		}
	}
}

// What names nobody, or nobody who can be, is refused where it is said, not lost.
func TestKeyThatNamesNobodyIsRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, hear("w")), saga.EngineConfig{}, uow.Config{})
	for _, key := range []string{"", strings.Repeat("x", 256), "x ", "a\x00b", "\xff"} {
		for what, do := range map[string]func(context.Context) error{
			"start":  func(ctx context.Context) error { return l.Start(ctx, key, labState{}) },
			"signal": func(ctx context.Context) error { return l.Signal(ctx, key, ping{}) },
			"cancel": func(ctx context.Context) error { return l.Cancel(ctx, key, "changed my mind") },
		} {
			l.inHome(func(ctx context.Context) error {
				if err := do(ctx); err == nil || !strings.Contains(err.Error(), what+" lab: the key ") {
					t.Errorf("%s with a key of %d bytes: %v", what, len(key), err)
				}
				return nil
			})
		}
	}
}

// A tag is what every database takes, and what [saga.Filter] finds.
func TestTagThatNobodyFindsIsRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, hear("w")), saga.EngineConfig{}, uow.Config{})
	for _, tag := range []string{"", "a|b", "a\x00b", "\xff"} {
		l.inHome(func(ctx context.Context) error {
			if err := l.Start(ctx, "x", labState{}, tag); err == nil || !strings.Contains(err.Error(), "tag") {
				t.Errorf("tag %q: %v", tag, err)
			}
			return nil
		})
	}
}

// A signal is an event that the saga waits for, not nothing, and not a type that is only called like it.
func TestSignalThatNobodyWaitsForIsRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, hear("w")), saga.EngineConfig{}, uow.Config{})
	event := ping{Text: "heard"}
	type ping struct{ Text int }
	for _, nobodys := range []any{nil, ping{}, quit{}} {
		l.inHome(func(ctx context.Context) error {
			if err := l.Signal(ctx, "x", nobodys); err == nil || !strings.Contains(err.Error(), "waits for no") {
				t.Errorf("%T: %v", nobodys, err)
			}
			return nil
		})
	}
	l.start("x")
	l.inHome(func(ctx context.Context) error { return l.Signal(ctx, "x", &event) })
	l.at("x", saga.Completed, "")
}
