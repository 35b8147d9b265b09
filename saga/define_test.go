package saga_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/internal/fulfil"
)

type node = saga.Node[labState]

func TestDefineRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	yes := func(*labState) bool { return true }
	with := func(s labStep, change func(*labStep)) labStep { change(&s); return s }
	late := with(def.undo("late"), func(*labStep) {})
	inner := saga.MustDefine("inner", 1, def.pivot("p"))
	sub := func(name string, d *saga.Definition[labState]) node {
		return saga.Sub[labState, labState]{Name: name, Saga: d, In: func(s *labState) labState { return *s }}
	}
	for want, nodes := range map[string][]node{
		"a: a step before the pivot needs an Undo":                     {quick("a"), def.pivot("p")},
		"a: a step before the pivot needs":                             {quick("a")},
		"late: an Undo behind the pivot would never run":               {def.pivot("p"), late},
		"p: a pivot has no Undo":                                       {with(def.undo("p"), func(s *labStep) { s.Pivot = true })},
		"p: no pivot inside Parallel":                                  {saga.Parallel[labState]("both", def.pivot("p"))},
		"p: no pivot inside When":                                      {saga.When("if", yes, node(def.pivot("p")))},
		"q: only one pivot":                                            {def.pivot("p"), def.pivot("q")},
		"x/p: no pivot inside Parallel":                                {saga.Parallel("both", sub("x", inner))},
		"x/p: only one pivot":                                          {def.pivot("p"), sub("x", inner)},
		"a: the name is used twice":                                    {def.undo("a"), def.undo("a")},
		"a step has no name":                                           {def.undo("")},
		"the name has 121 bytes":                                       {def.undo(strings.Repeat("n", 121))},
		"a: Do is missing":                                             {with(def.undo("a"), func(s *labStep) { s.Do = nil })},
		"a: Timeout is -1s":                                            {with(def.undo("a"), func(s *labStep) { s.Timeout = -time.Second })},
		"a: Retry.Attempts is -1":                                      {with(def.undo("a"), func(s *labStep) { s.Retry.Attempts = -1 })},
		"a: Retry.Min is 2s and Retry.Max 1s":                          {with(def.undo("a"), func(s *labStep) { s.Retry = cqrs.Retry{Min: 2e9, Max: 1e9} })},
		"p: Exhausted is Compensate":                                   {with(def.pivot("p"), func(s *labStep) { s.Exhausted = saga.Compensate })},
		"a node is nil":                                                {nil},
		"both: a parallel without nodes":                               {saga.Parallel[labState]("both")},
		"if: a when without nodes":                                     {saga.When[labState]("if", yes)},
		"if: the predicate is missing":                                 {saga.When("if", nil, node(def.undo("a")))},
		"x: Saga is missing":                                           {sub("x", nil)},
		"x: In is missing":                                             {saga.Sub[labState, labState]{Name: "x", Saga: inner}},
		"c: only one OnCancel":                                         {def.pivot("p"), saga.OnCancel[labState]{Name: "b"}, saga.OnCancel[labState]{Name: "c"}},
		"c: nodes of OnCancel run behind the pivot, and there is none": {def.undo("a"), saga.OnCancel[labState]{Name: "c", Then: []node{quick("r")}}},
		"r: an Undo behind the pivot":                                  {def.pivot("p"), saga.OnCancel[labState]{Name: "c", Then: []node{def.undo("r")}}},
		"c: OnCancel stands at the top":                                {def.pivot("p"), saga.When("if", yes, node(saga.OnCancel[labState]{Name: "c"}))},
		"the definition has no nodes":                                  {},
	} {
		d, err := saga.Define("lab", 1, nodes...)
		if !errors.Is(err, saga.ErrDefinition) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v, %v", want, d, err)
		}
	}
	if _, err := saga.Define[labState]("", 0, quick("a"), quick("a")); strings.Count(err.Error(), "\n") != 4 {
		t.Errorf("want all five faults at once, got %v", err)
	}
	_, err := saga.Define(strings.Repeat("n", 129), 1, node(def.pivot("p")))
	if err == nil || !strings.HasSuffix(err.Error(), "the name has 129 bytes, at most 128") {
		t.Errorf("a name that no column holds: %v", err)
	}
	if _, err := saga.Define("lab", 1, node(saga.Step[labState, work, worked]{
		Name: "look", Do: func(*labState) (w work) { return w }, Undo: saga.Nothing[labState](),
	})); err != nil {
		t.Errorf("a step that only looks: %v", err)
	}
}

// Who gives the longest wait alone gets a first one that fits.
func TestLongestWaitAlone(t *testing.T) {
	t.Parallel()
	for _, longest := range []time.Duration{time.Millisecond, 50 * time.Millisecond, math.MaxInt64} {
		s := def.undo("a")
		s.Retry = cqrs.Retry{Max: longest}
		if _, err := saga.Define("lab", 1, node(s)); err != nil {
			t.Errorf("%v: %v", longest, err)
		}
	}
}

func TestHashCoversWhatInstancesDependOn(t *testing.T) {
	t.Parallel()
	hash := func(n ...node) string { return saga.MustDefine("lab", 1, n...).Hash() }
	base := hash(def.undo("a"), def.pivot("p"))
	if got := hash(patient(def.undo("a")), def.pivot("p")); got != base {
		t.Error("a timeout changes the hash")
	}
	for name, got := range map[string]string{
		"order":   hash(def.pivot("p"), quick("a")),
		"name":    hash(def.undo("b"), def.pivot("p")),
		"pivot":   hash(def.undo("a"), def.undo("p")),
		"undo":    hash(func() labStep { s := def.undo("a"); s.Undo = saga.Nothing[labState](); return s }(), def.pivot("p")),
		"local":   hash(def.undo("a"), saga.Local[labState]{Name: "l"}, def.pivot("p")),
		"cancel":  hash(def.undo("a"), def.pivot("p"), saga.OnCancel[labState]{Name: "c"}),
		"command": hash(def.undo("a"), saga.Step[labState, other, worked]{Name: "p", Pivot: true, Do: func(*labState) (o other) { return o }}),
	} {
		if got == base {
			t.Errorf("%s does not change the hash", name)
		}
	}
}

type other struct{ cqrs.Returns[worked] }

func TestMermaid(t *testing.T) {
	t.Parallel()
	d := saga.MustDefine("lab", 2,
		saga.Parallel("both", node(def.undo("a")), saga.When("rich", func(*labState) bool { return true }, node(def.undo("b")))),
		def.pivot("p"),
		saga.Local[labState]{Name: "note", Do: func(context.Context, *labState) error { return nil }},
		saga.Wait[labState, ping]{Name: "answer"},
		saga.OnCancel[labState]{Name: "refund", Then: []node{quick("r")}},
	)
	want := `flowchart TD
  begin(["lab v2"])
  n1[/"both"/]
  begin --> n1
  n2["a<br>work"]
  n1 --> n2
  n2 -. undo .-> n2u["unwork"]
  n3{"rich?"}
  n1 --> n3
  n4["b<br>work"]
  n3 --> n4
  n4 -. undo .-> n4u["unwork"]
  n5["p<br>work"]:::pivot
  n2 --> n5
  n4 --> n5
  n3 --> n5
  n6("note")
  n5 --> n6
  n7>"answer<br>ping"]
  n6 --> n7
  finish([completed])
  n7 --> finish
  cancel{{"cancelled behind the pivot: refund"}}
  n8["r<br>work"]
  cancel --> n8
  cancelled([cancelled])
  n8 --> cancelled
  classDef pivot stroke-width:4px
`
	if got := d.Mermaid(); got != want {
		t.Errorf("got\n%s", got)
	}
	if !strings.Contains(fulfil.Order.Mermaid(), "CapturePayment\"]:::pivot") {
		t.Errorf("the pivot is not drawn as one:\n%s", fulfil.Order.Mermaid())
	}
}
