package flow_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/internal/flow"
)

// decoded reads an instance at a place.
func decoded(t *testing.T, place string) *flow.Instance {
	t.Helper()
	in := &flow.Instance{ID: "j", State: &trip{}}
	if err := json.Unmarshal([]byte(place), &in.Cursor); err != nil {
		t.Fatal(err)
	}
	return in
}

// A step of a sub needs the sub's state, which only the sub's beginning makes.
func TestMoveIntoASubNeedsItsState(t *testing.T) {
	t.Parallel()
	part := saga.MustDefine("part", 1, leg("a", false), leg("b", false))
	sub := saga.Sub[trip, trip]{Name: "sub", Saga: part, In: func(s *trip) trip { return *s }}
	g := saga.MustDefine("moved", 2, sub, leg("p", true)).Graph()
	for place, wrong := range map[string]string{
		`{}`: "sub",
		`{"m":[{"n":"sub","s":"entered"},{"n":"sub/a","s":"ok"}]}`:                     "sub",
		`{"m":[{"n":"sub","s":"ok"},{"n":"sub/a","s":"ok"}]}`:                          "sub/a",
		`{"f":{"sub":[]},"m":[{"n":"sub","s":"entered"}]}`:                             "state of sub",
		`{"f":{"sub":{"Log":["x"]},"gone":{}},"m":[{"n":"sub","s":"entered"}]}`:        "",
		`{"f":{"sub":{}},"m":[{"n":"sub","s":"entered"},{"n":"sub/a","s":"skipped"}]}`: "",
	} {
		err := g.Move(decoded(t, place), "sub/b")
		if wrong == "" && err != nil || wrong != "" && (err == nil || !strings.Contains(err.Error(), wrong)) {
			t.Errorf("%s: got %v, want %q", place, err, wrong)
		}
	}
}

// Whoever is being undone or cancelled needs the steps that it has done: without them their undo would be left out, or
// what refunds it done again.
func TestMoveOnTheWayBackKeepsWhatWasDone(t *testing.T) {
	t.Parallel()
	g := saga.MustDefine("moved", 2, leg("a", false), leg("p", true)).Graph()
	for phase, lost := range map[flow.Phase]bool{
		flow.Forward: false, flow.Settling: true, flow.Unwind: true, flow.Turn: true, flow.Refund: true,
		flow.Completed: false, flow.Compensated: false, flow.Cancelled: false, flow.Aborted: false,
	} {
		for _, state := range []flow.MarkState{flow.OK, flow.Doubt, flow.Out, flow.Undoing} {
			in := decoded(t, `{"m":[{"n":"a","s":"ok"},{"n":"old","s":"`+string(state)+`"}]}`)
			in.Cursor.Phase = phase
			if err := g.Move(in, ""); (err != nil) != lost {
				t.Errorf("%q with a lost step that is %s: %v", phase, state, err)
			}
		}
		in := decoded(t, `{"m":[{"n":"a","s":"ok"},{"n":"old","s":"undone"},{"n":"gone","s":"refused"}]}`)
		in.Cursor.Phase = phase
		if err := g.Move(in, ""); err != nil || len(in.Cursor.Marks) != 1 {
			t.Errorf("%q: %v, %d marks", phase, err, len(in.Cursor.Marks))
		}
	}
}
