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
