package saga_test

import (
	"context"
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
