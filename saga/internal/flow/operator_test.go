package flow_test

import (
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/internal/flow"
)

// forward is a leg behind the pivot.
func forward(name string) saga.Step[trip, travel, went] {
	s := leg(name, false)
	s.Undo = nil
	return s
}

var refunding = saga.MustDefine("refunding", 1, leg("a", false), leg("p", true), forward("b"),
	saga.OnCancel[trip]{Name: "c", Then: []saga.Node[trip]{forward("r")}})

// A cancel refunds what the pivot did: nothing, if an operator completed the saga before it was done.
func TestCancelAfterCompleteRefundsOnlyWhatThePivotDid(t *testing.T) {
	t.Parallel()
	cancel, complete := flow.Input{Kind: flow.Stop}, flow.Input{Kind: flow.Force, End: flow.Completed}
	for _, done := range []string{"", "a"} {
		s := begin(t, refunding)
		if done != "" {
			s.reply(done, cqrs.OutcomeOK)
		}
		s.apply(complete)
		if step := s.in.Cursor.Step(); step != "" {
			t.Errorf("after %q: completed at %q", done, step)
		}
		if sent := s.apply(cancel); sent != "" {
			t.Errorf("after %q: sent %s", done, sent)
		}
		s.phase(flow.Completed)
	}
}

// What an operator completes is over: a cancel does not wait for a command that was out at that time.
func TestCancelAfterCompleteDoesNotWaitForWhatWasOut(t *testing.T) {
	t.Parallel()
	for _, parked := range []bool{false, true} {
		s := begin(t, refunding)
		s.reply("a", cqrs.OutcomeOK)
		s.reply("p", cqrs.OutcomeOK)
		if parked {
			s.pass(time.Minute)
			s.pass(time.Minute)
		}
		if m := s.in.Cursor.Mark("b"); m.State != flow.Out || m.Stuck != parked {
			t.Fatalf("b is %+v", m)
		}
		s.apply(flow.Input{Kind: flow.Force, End: flow.Completed})
		if sent := s.apply(flow.Input{Kind: flow.Stop}); sent != "1:d:r" {
			t.Errorf("the cancel sent %q", sent)
		}
		s.reply("b", cqrs.OutcomeOK)
		s.reply("r", cqrs.OutcomeOK)
		s.phase(flow.Cancelled)
		s.log("a p r")
	}
}
