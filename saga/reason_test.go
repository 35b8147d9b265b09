package saga_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
)

// Whatever others say when they fail is stored as a text that every database takes, and holds up nobody.
func TestReasonIsStorableWhateverItSays(t *testing.T) {
	t.Parallel()
	odd := "line 1\nline 2 \x00 \xff " + strings.Repeat("€", 30_000)
	want := "line 1\nline 2 \uFFFD \uFFFD €"
	fails := saga.Local[labState]{
		Name: "fails", Retry: cqrs.Retry{Attempts: 2, Min: time.Millisecond, Max: time.Millisecond},
		Do: func(_ context.Context, s *labState) error {
			switch s.ID {
			case "error":
				return errors.New(odd)
			case "rejection":
				return cqrs.Reject(odd, errors.New(odd))
			case "panic":
				panic(strings.ReplaceAll(odd, "\n", " "))
			}
			return nil
		},
	}
	everywhere(t, func(t *testing.T, dialect string) {
		l := newLab(t, dialect, saga.MustDefine("lab", 1, hear("first"), fails, soon("w")), saga.EngineConfig{}, uow.Config{})
		ids := []string{"error", "rejection", "panic", "good"}
		for _, id := range ids {
			l.start(id)
		}
		l.inHome(func(ctx context.Context) (err error) {
			for _, id := range ids {
				err = errors.Join(err, l.Signal(ctx, id, ping{}))
			}
			return err
		})
		got := map[string]saga.Summary{}
		tickUntil(t, l.engine, func() bool {
			for i, err := range l.engine.List(t.Context(), saga.Filter{}) {
				must(t, err)
				got[i.Key] = i
			}
			return got["error"].Status == saga.Parked && got["good"].Status == saga.Compensated
		}, func() string { return fmt.Sprint(got) })
		for _, id := range ids[:3] {
			reason := strings.Replace(got[id].Reason, "line 1 line 2", "line 1\nline 2", 1)
			if !strings.Contains(reason, want) || !utf8.ValidString(reason) || len(reason) > 500 || len(reason) < 490 {
				t.Errorf("%s is %s, for a reason of %d bytes: %q", id, got[id].Status, len(reason), reason)
			}
		}
	})
}

// A rejection is an answer whatever its code is, and a participant remembers it.
func TestRejectionWithACodeThatNoColumnHolds(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		l := newLab(t, dialect, saga.MustDefine("lab", 1, patient(def.undo("a"))), saga.EngineConfig{}, uow.Config{})
		for id, code := range map[string]string{"x": strings.Repeat("ü", 300), "y": "a\x00b", "z": "\xff"} {
			l.plan(id+" a", refuses(code))
			l.start(id)
		}
		l.run()
		for _, id := range []string{"x", "y", "z"} {
			l.at(id, saga.Compensated, "")
		}
	})
}
