package saga_test

import (
	"context"
	"testing"

	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
)

// A command that its catalog entry refuses suspends an instance, and what locals wrote on the way to it is undone: it
// is written once in all, when an operator has let the instance go on.
func TestRule22_RefusedCommandUndoesLocals(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		mood := "refuse"
		p := saga.Step[labState, picky, worked]{Name: "p", Pivot: true, Do: func(*labState) picky { return picky{Mood: mood} }}
		l := newLab(t, dialect, saga.MustDefine("lab", 1, saga.Wait[labState, ping]{Name: "first"}, tally("count"), p),
			saga.EngineConfig{}, uow.Config{})
		l.inHome(func(ctx context.Context) error { return uow.DB(ctx).Exec("CREATE TABLE tally (id VARCHAR(64))").Error })
		l.start("x")
		l.inHome(func(ctx context.Context) error { return l.Signal(ctx, "x", ping{ID: "x"}) })
		l.at("x", saga.Suspended, "first")
		if n := l.tallies("x"); n != 0 {
			t.Errorf("the local took effect %d times in a transition that did not happen", n)
		}
		mood = "content"
		must(t, l.engine.Intervene(t.Context(), saga.Intervention{
			Type: "lab", Key: "x", Action: saga.ActRetry, Actor: "ann", Reason: "repaired",
		}))
		l.at("x", saga.Running, "p")
		if n := l.tallies("x"); n != 1 {
			t.Errorf("the local took effect %d times", n)
		}
		var sent int
		l.inHome(func(ctx context.Context) error {
			return uow.DB(ctx).Raw("SELECT count(*) FROM outbox").Row().Scan(&sent)
		})
		if sent != 1 {
			t.Errorf("%d commands were sent", sent)
		}
	})
}
