package sagatest_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/sagatest"
)

// paper waits for a visa and notes it in the host's database, behind which there is nothing to undo.
var paper = saga.MustDefine("paper", 1,
	saga.Wait[trip, visa]{
		Name: "visa", On: func(t *trip, v visa) { t.Visa = v.No }, Timeout: time.Hour,
	},
	saga.Local[trip]{
		Name: "file", Retry: cqrs.Retry{Attempts: 3},
		Do: func(context.Context, *trip) error { return errors.New("there is no database here") },
	},
)

// An event that a test signals is kept until the saga waits for it; without it the Wait runs out.
func TestSignal(t *testing.T) {
	t.Parallel()
	filed := sagatest.Stub("file", func(_ context.Context, s *trip) error { s.Paid = "filed"; return nil })
	for name, event := range map[string]sagatest.Reply{
		"a value": sagatest.Signal(visa{"v-1"}), "a pointer": sagatest.Signal(&visa{"v-1"}),
	} {
		got := sagatest.Run(t, paper, trip{}, event, filed)
		if got.Status != saga.Completed || got.State.Visa != "v-1" || got.State.Paid != "filed" || got.Took != 0 {
			t.Errorf("%s: %s after %s, %+v", name, got.Status, got.Took, got.State)
		}
	}
	if got := sagatest.Run(t, paper, trip{}, filed); got.Status != saga.Compensated || got.Took != time.Hour {
		t.Errorf("without the event: %s after %s", got.Status, got.Took)
	}
}

// A stub takes the place of a Local's Do: its refusal is final, another failure is tried again.
func TestStub(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fails  int
		with   error
		status saga.Status
		runs   int
	}{
		"it works at last": {2, errors.New("away"), saga.Completed, 3},
		"it never works":   {9, errors.New("away"), saga.Parked, 3},
		"it refuses":       {1, cqrs.Reject("full", nil), saga.Compensated, 1},
	} {
		runs := 0
		got := sagatest.Run(t, paper, trip{}, sagatest.Signal(visa{"v-1"}),
			sagatest.Stub("file", func(context.Context, *trip) error {
				if runs++; runs <= c.fails {
					return c.with
				}
				return nil
			}))
		if got.Status != c.status || runs != c.runs {
			t.Errorf("%s: %s (%s) after %d runs", name, got.Status, got.Reason, runs)
		}
	}
}

// What a definition does not have would do nothing, and the test would be about something else.
func TestRepliesThatNameNothing(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]sagatest.Reply{
		"waits for no stamp":   sagatest.Signal(stamp{}),
		`has no Local "visa"`:  sagatest.Stub("visa", func(context.Context, *trip) error { return nil }),
		`has no Local "fil"`:   sagatest.Stub("fil", func(context.Context, *trip) error { return nil }),
		`has no step "flight"`: sagatest.CancelAt("flight", "why"),
	} {
		f := &fakeT{}
		done := make(chan struct{})
		go func() {
			defer close(done)
			sagatest.Run(f, paper, trip{}, r)
		}()
		<-done
		if !strings.Contains(f.said, "paper "+want) {
			t.Errorf("want %q, got %q", want, f.said)
		}
	}
}
