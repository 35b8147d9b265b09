package flow_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/internal/flow"
)

// A scene is one instance to which things happen, on a clock of its own.
type scene struct {
	t   *testing.T
	g   *flow.Graph
	in  *flow.Instance
	now time.Time
}

func begin(t *testing.T, d *saga.Definition[trip]) *scene {
	t.Helper()
	s := &scene{t: t, g: d.Graph(), in: &flow.Instance{ID: "j", State: &trip{}}, now: time.Unix(1000, 0)}
	s.apply(flow.Input{Kind: flow.Start})
	return s
}

// apply returns the tokens of what it sent, without the saga's: "1:d:a 1:u:b".
func (s *scene) apply(in flow.Input) string {
	s.t.Helper()
	res, err := s.g.Apply(s.in, in, flow.Env{Now: s.now, Decode: json.Unmarshal})
	if err != nil {
		s.t.Fatalf("%s: %v", in.Kind, err)
	}
	var sent []string
	for _, c := range res.Commands {
		sent = append(sent, strings.TrimPrefix(c.Token.String(), "j:"))
	}
	return strings.Join(sent, " ")
}

// reply answers the first incarnation of a step.
func (s *scene) reply(step string, outcome cqrs.Outcome) string {
	s.t.Helper()
	return s.apply(flow.Input{Kind: flow.Reply, Step: step, Inc: 1, Outcome: outcome})
}

// pass lets time pass, and fires what is due then.
func (s *scene) pass(d time.Duration) string {
	s.t.Helper()
	s.now = s.now.Add(d)
	return s.apply(flow.Input{Kind: flow.Timer})
}

func (s *scene) phase(want flow.Phase) {
	s.t.Helper()
	if got := s.in.Cursor.Phase; got != want {
		s.t.Errorf("phase %q, want %q", got, want)
	}
}

func (s *scene) log(want string) {
	s.t.Helper()
	if got := strings.Join(s.in.State.(*trip).Log, " "); got != want {
		s.t.Errorf("logged %q, want %q", got, want)
	}
}
