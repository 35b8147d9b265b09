package flow_test

import (
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/internal/flow"
)

// Two siblings are due at once, and the first fails: the second, which certainly was not executed, is not sent again.
func TestRule26_ATimerStartsNothingAfterAFailure(t *testing.T) {
	t.Parallel()
	a, b := leg("a", false), leg("b", false)
	a.Retry.Attempts = 1
	b.Retry = cqrs.Retry{Attempts: 5, Min: 500 * time.Millisecond}
	s := begin(t, saga.MustDefine("both", 1, saga.Parallel("both", a, b), leg("p", true)))
	s.reply("b", cqrs.OutcomeNotExecuted)
	if sent := s.pass(2 * time.Second); sent != "1:u:a" {
		t.Errorf("sent %q, want the undo of a alone", sent)
	}
	if m := s.in.Cursor.Mark("b"); m.State != flow.Skipped {
		t.Errorf("b is %s", m.State)
	}
	s.apply(flow.Input{Kind: flow.Reply, Step: "a", Inc: 1, Undo: true, Outcome: cqrs.OutcomeOK})
	s.phase(flow.Compensated)
}
