package flow_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/internal/flow"
	"github.com/surge-go/surge/saga/internal/fulfil"
	"pgregory.net/rapid"
)

type trip struct{ Log []string }

type travel struct {
	cqrs.Returns[went]
	To string
}

type (
	went  struct{ To string }
	back  struct{ From string }
	hello struct{ Text string }
)

func leg(name string, pivot bool) saga.Step[trip, travel, went] {
	s := saga.Step[trip, travel, went]{
		Name: name, Pivot: pivot, Retry: cqrs.Retry{Attempts: 2}, Timeout: time.Second,
		Do:   func(*trip) travel { return travel{To: name} },
		Done: func(t *trip, _ went) { t.Log = append(t.Log, name) },
	}
	if !pivot {
		s.Undo = saga.Command(func(*trip) back { return back{name} })
	}
	return s
}

var errLocal = errors.New("local")

var journey = saga.MustDefine("journey", 1,
	saga.Parallel("both", leg("a", false), saga.When("w", func(*trip) bool { return true }, leg("b", false)),
		saga.Wait[trip, hello]{Name: "hear", Timeout: time.Minute}),
	saga.Local[trip]{Name: "l", Do: func(context.Context, *trip) error { return errLocal }},
	leg("p", true),
	func() saga.Node[trip] { s := leg("z", false); s.Undo = nil; return s }(),
	saga.OnCancel[trip]{Name: "c", Then: []saga.Node[trip]{
		func() saga.Node[trip] { s := leg("r", false); s.Undo = nil; return s }(),
	}},
)

// machine throws anything at an instance, sensible or not.
type machine struct {
	g    *flow.Graph
	in   *flow.Instance
	now  time.Time
	sent map[string]flow.Token
}

func (m *machine) apply(t *rapid.T, in flow.Input, local error) {
	state, cursor, err := m.in.Encode()
	if err != nil {
		t.Fatal(err)
	}
	env := flow.Env{
		Now: m.now, Decode: json.Unmarshal, Local: func(*flow.Node, any) error { return local }, Failed: map[string]error{},
	}
	for {
		next, err := m.g.Decode(m.in.ID, state, cursor)
		if err != nil {
			t.Fatal(err)
		}
		res, err := m.g.Apply(next, in, env)
		var failed *flow.LocalError
		if errors.As(err, &failed) {
			env.Failed[failed.Node] = failed.Err
			continue
		}
		if refused(err) {
			return
		}
		if err != nil {
			t.Fatalf("%+v: %v", in, err)
		}
		m.check(t, in, res, next)
		m.in = next
		return
	}
}

func refused(err error) bool {
	return errors.Is(err, flow.ErrEnded) || errors.Is(err, flow.ErrNotStuck) ||
		errors.Is(err, flow.ErrPivotInDoubt) || errors.Is(err, flow.ErrPastPivot)
}

func (m *machine) check(t *rapid.T, in flow.Input, res flow.Result, next *flow.Instance) {
	if !res.Changed && (len(res.Commands) > 0 || len(res.Entries) > 0) {
		t.Fatalf("%+v changed nothing, and yet: %+v", in, res)
	}
	phase := next.Cursor.Phase
	lateCancel := m.in.Cursor.Phase == flow.Completed && phase == flow.Refund
	if m.in.Cursor.Phase.Ended() && phase != m.in.Cursor.Phase && !lateCancel {
		t.Fatalf("%s became %s by %+v", m.in.Cursor.Phase, phase, in)
	}
	if lateCancel && next.Cursor.Mark("p").State != flow.OK {
		t.Fatalf("refunds what the pivot never did")
	}
	if phase.Ended() && next.Cursor.Due() != 0 {
		t.Fatalf("ended, but due")
	}
	pivot := next.Cursor.Mark("p")
	if pivot != nil && pivot.State == flow.OK && (phase == flow.Settling || phase == flow.Unwind || phase == flow.Compensated) {
		t.Fatalf("%s with the pivot done", phase)
	}
	for _, c := range res.Commands {
		n := m.g.Node(c.Token.Step)
		if c.Token.Aim != flow.ToDo && (n.Pivot || n.Forward) {
			t.Fatalf("%s is being undone", n.Name)
		}
		if parsed, ok := flow.ParseToken(c.Token.String()); !ok || parsed != c.Token {
			t.Fatalf("token %+v does not survive the wire", c.Token)
		}
		m.sent[c.Token.String()] = c.Token
	}
	seen := map[string]bool{}
	for _, mark := range next.Cursor.Marks {
		if seen[mark.Node] {
			t.Fatalf("%s is marked twice", mark.Node)
		}
		seen[mark.Node] = true
	}
}

func (m *machine) token(t *rapid.T) flow.Token {
	var all []string
	for s := range m.sent {
		all = append(all, s)
	}
	slices.Sort(all)
	return m.sent[rapid.SampledFrom(all).Draw(t, "token")]
}

func TestInterpreterAgainstAnything(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{
			g: journey.Graph(), now: time.Unix(1000, 0), sent: map[string]flow.Token{},
			in: &flow.Instance{ID: "j", State: &trip{}},
		}
		m.apply(t, flow.Input{Kind: flow.Start}, nil)
		local := rapid.SampledFrom([]error{nil, errLocal, cqrs.Reject("no", nil)})
		t.Repeat(map[string]func(*rapid.T){
			"reply": func(t *rapid.T) {
				k := m.token(t)
				m.apply(t, flow.Input{
					Kind: flow.Reply, Step: k.Step, Inc: k.Inc + rapid.IntRange(0, 1).Draw(t, "off"), Undo: k.Aim != flow.ToDo,
					Outcome: rapid.SampledFrom([]cqrs.Outcome{
						cqrs.OutcomeOK, cqrs.OutcomeOK, cqrs.OutcomeRejected, cqrs.OutcomeNotExecuted,
					}).Draw(t, "outcome"), Payload: []byte("{}"),
				}, local.Draw(t, "local"))
			},
			"timer": func(t *rapid.T) {
				if due := m.in.Cursor.Due(); due != 0 {
					m.now = time.UnixMilli(max(due, m.now.UnixMilli()))
				}
				m.apply(t, flow.Input{Kind: flow.Timer}, local.Draw(t, "local"))
			},
			"event":  func(t *rapid.T) { m.apply(t, flow.Input{Kind: flow.Event, Event: "hello"}, local.Draw(t, "local")) },
			"cancel": func(t *rapid.T) { m.apply(t, flow.Input{Kind: flow.Stop, Text: "x"}, nil) },
			"operator": func(t *rapid.T) {
				m.apply(t, flow.Input{
					Kind: rapid.SampledFrom([]flow.InputKind{flow.Retry, flow.Skip, flow.Abort, flow.Force}).Draw(t, "kind"),
					End:  flow.Completed,
				}, local.Draw(t, "local"))
			},
		})
	})
}

func FuzzParseToken(f *testing.F) {
	f.Add("id:1:d:step")
	f.Add("id:1:u:sub/step:with:colons")
	f.Add(":::")
	f.Fuzz(func(t *testing.T, s string) {
		k, ok := flow.ParseToken(s)
		if !ok {
			return
		}
		again, ok := flow.ParseToken(k.String())
		if !ok || again != k {
			t.Errorf("%q became %+v, then %+v", s, k, again)
		}
	})
}

func FuzzDecode(f *testing.F) {
	g := fulfil.Order.Graph()
	f.Add([]byte(`{"OrderID":"o"}`), []byte(`{"m":[{"n":"reserve-stock","s":"out","i":1,"t":1,"d":5}]}`))
	f.Fuzz(func(_ *testing.T, state, cursor []byte) {
		in, err := g.Decode("x", state, cursor)
		if err != nil {
			return
		}
		for _, m := range in.Cursor.Marks {
			if m == nil || g.Node(m.Node) == nil {
				return
			}
		}
		// Whatever is at rest, a transition returns: a poisoned instance is an error, never a crash.
		_, _ = g.Apply(in, flow.Input{Kind: flow.Timer}, flow.Env{Now: time.Now(), Decode: json.Unmarshal})
	})
}
