package saga_test

import (
	"context"
	"errors"
	"testing"

	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/operator"
)

// Skip and Abort on all sagas of a type mean the parked ones: what is suspended waits for a repair, and a Retry.
func TestSkipAndAbortOfAllLeaveSuspendedOnesAlone(t *testing.T) {
	t.Parallel()
	poisonous := saga.Wait[labState, ping]{Name: "w", On: func(*labState, ping) { panic("poison") }}
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, patient(def.undo("a")), poisonous, patient(def.pivot("p"))),
		saga.EngineConfig{}, uow.Config{})
	l.plan("parked undo a", refuses("not now"))
	l.run()
	l.start("parked")
	l.start("suspended")
	l.at("parked", saga.Running, "w")
	l.at("suspended", saga.Running, "w")
	l.inHome(func(ctx context.Context) error { return l.Cancel(ctx, "parked", "changed my mind") })
	l.inHome(func(ctx context.Context) error { return l.Signal(ctx, "suspended", ping{}) })
	l.at("parked", saga.Parked, "a")
	l.at("suspended", saga.Suspended, "w")
	op, all := operator.New(l.engine), saga.Filter{Type: "lab"}
	if n, err := op.Abort(t.Context(), all, by); n != 1 || err != nil {
		t.Errorf("abort: %d, %v", n, err)
	}
	if n, err := op.Skip(t.Context(), all, by); n != 1 || err != nil {
		t.Errorf("skip: %d, %v", n, err)
	}
	l.at("parked", saga.Aborted, "")
	l.at("suspended", saga.Suspended, "w")
	if n, err := op.Abort(t.Context(), only("suspended"), by); n != 1 || err != nil {
		t.Errorf("abort of one: %d, %v", n, err)
	}
	l.at("suspended", saga.Aborted, "")
}

// unreadable makes a lab whose saga x has a state that an older program wrote, and an event that came for it.
func unreadable(t *testing.T) (*lab, *operator.Operator) {
	t.Helper()
	w := saga.Wait[labState, ping]{Name: "w", On: func(s *labState, p ping) { s.note(p.Text) }}
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, w, patient(def.pivot("p"))), saga.EngineConfig{}, uow.Config{})
	l.start("x")
	l.inHome(func(ctx context.Context) error {
		return uow.DB(ctx).Exec(`UPDATE saga_instances SET state = '{"ID":"x","Log":["a","b"]}'`).Error
	})
	l.inHome(func(ctx context.Context) error { return l.Signal(ctx, "x", ping{Text: "hello"}) })
	l.listed(saga.Suspended)
	return l, operator.New(l.engine)
}

// listed reads the status of x without its state.
func (l *lab) listed(want saga.Status) {
	l.t.Helper()
	for s, err := range l.engine.List(l.t.Context(), only("x")) {
		if err != nil || s.Status != want {
			l.t.Errorf("got %+v, %v, want %s", s, err, want)
		}
	}
}

// A state that cannot be read is replaced by a patch, and the saga goes on with what came meanwhile.
func TestPatchHelpsAnUnreadableState(t *testing.T) {
	t.Parallel()
	l, op := unreadable(t)
	if err := op.Patch(t.Context(), "lab", "x", []string{"no state either"}, by); err == nil {
		t.Error("patched with what is no state")
	}
	must(t, op.Patch(t.Context(), "lab", "x", labState{ID: "x", Log: "patched"}, by))
	l.at("x", saga.Suspended, "w")
	if n, err := op.Retry(t.Context(), only("x"), by); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if i := l.at("x", saga.Running, "p"); i.State.Log != "patched hello" {
		t.Errorf("logged %q", i.State.Log)
	}
}

// To complete a saga its state need not be read, and what comes later changes nothing.
func TestCompleteEndsAnUnreadableSaga(t *testing.T) {
	t.Parallel()
	l, op := unreadable(t)
	must(t, op.Complete(t.Context(), "lab", "x", saga.Aborted, by))
	l.listed(saga.Aborted)
	l.inHome(func(ctx context.Context) error { return l.Signal(ctx, "x", ping{Text: "late"}) })
	l.listed(saga.Aborted)
	if err := op.Complete(t.Context(), "lab", "x", saga.Completed, by); !errors.Is(err, saga.ErrEnded) {
		t.Errorf("completed twice: %v", err)
	}
	journal, err := op.Journal(t.Context(), "lab", "x")
	must(t, err)
	if last := journal[len(journal)-1].Entries; len(last) != 2 || last[0].Note != "force: ann: test" {
		t.Errorf("journaled %+v", last)
	}
}

// A cancel that comes for a completed saga whose state cannot be read is kept for the repair.
func TestCancelOfAnUnreadableCompletedSagaIsKept(t *testing.T) {
	t.Parallel()
	l, op := unreadable(t)
	must(t, op.Complete(t.Context(), "lab", "x", saga.Completed, by))
	l.inHome(func(ctx context.Context) error { return l.Cancel(ctx, "x", "changed my mind") })
	l.listed(saga.Suspended)
	must(t, op.Patch(t.Context(), "lab", "x", labState{ID: "x"}, by))
	if n, err := op.Retry(t.Context(), only("x"), by); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	l.at("x", saga.Completed, "")
}
