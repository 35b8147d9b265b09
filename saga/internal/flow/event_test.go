package flow_test

import (
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/internal/flow"
)

func hears(name string, timeout time.Duration) saga.Wait[trip, hello] {
	return saga.Wait[trip, hello]{
		Name: name, Timeout: timeout, On: func(s *trip, h hello) { s.Log = append(s.Log, name+":"+h.Text) },
	}
}

// A saga that is parked at a Wait goes on when its event comes after all, as with a late reply.
func TestLateEventLetsAParkedWaitGoOn(t *testing.T) {
	t.Parallel()
	s := begin(t, saga.MustDefine("late", 1, leg("p", true), hears("w", time.Minute), hears("v", time.Minute)))
	s.reply("p", cqrs.OutcomeOK)
	s.pass(time.Hour)
	if !s.in.Cursor.Stuck() {
		t.Fatal("not parked")
	}
	s.apply(flow.Input{Kind: flow.Event, Event: "hello", Payload: []byte(`{"Text":"paid"}`)})
	if m := s.in.Cursor.Mark("v"); s.in.Cursor.Stuck() || m == nil || m.State != flow.Waiting {
		t.Errorf("stuck %t, at %q", s.in.Cursor.Stuck(), s.in.Cursor.Step())
	}
	s.log("p w:paid")
	s.apply(flow.Input{Kind: flow.Event, Event: "hello", Payload: []byte(`{"Text":"sent"}`)})
	s.phase(flow.Completed)
	s.log("p w:paid v:sent")
}
