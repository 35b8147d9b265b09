package saga_test

import (
	"context"
	"strings"
	"testing"

	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
)

// MaxStash bounds what is kept ahead of its Wait; what the saga takes at once is not kept.
func TestMaxStashBoundsEventsAheadOfTheirWait(t *testing.T) {
	t.Parallel()
	w := saga.Wait[labState, ping]{Name: "w", On: func(s *labState, p ping) { s.note(p.Text) }}
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, w, patient(def.pivot("p")),
		saga.Wait[labState, ping]{Name: "v"}), saga.EngineConfig{MaxStash: 2}, uow.Config{})
	l.start("x")
	for n, refused := range []bool{false, false, false, true, true} { // the first is waited for, two are kept
		err := l.home.Work.Do(t.Context(), func(ctx context.Context) error { return l.Signal(ctx, "x", ping{Text: "heard"}) })
		if refused != (err != nil && strings.Contains(err.Error(), "stash")) || !refused && err != nil {
			t.Errorf("signal %d: %v", n, err)
		}
	}
	l.inHome(func(ctx context.Context) error { return l.Cancel(ctx, "x", "changed my mind") })
	if i := l.at("x", saga.Running, "p"); i.State.Log != "heard" || !i.Cancelled {
		t.Errorf("%+v", i)
	}
}
