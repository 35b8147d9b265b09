package saga_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
)

type partState struct{ ID string }

// withPart defines a saga whose first step lies in a sub, with a state of its own.
func withPart(version int, then ...saga.Node[labState]) *saga.Definition[labState] {
	part := saga.MustDefine("part", 1, saga.Step[partState, work, worked]{
		Name: "a", Timeout: time.Minute,
		Do:   func(s *partState) work { return work{ID: s.ID, Step: "a"} },
		Undo: saga.Command(func(s *partState) unwork { return unwork{s.ID, "a"} }),
	})
	nodes := []saga.Node[labState]{saga.Sub[labState, partState]{
		Name: "sub", Saga: part, In: func(s *labState) partState { return partState{s.ID} },
	}}
	return saga.MustDefine("lab", version, append(append(nodes, then...), patient(def.pivot("p")))...)
}

// sameState moves instances as they are.
func sameState(from int) saga.Migration[labState] {
	return saga.Migration[labState]{From: from, Move: func(old []byte, step string) (s labState, _ string, err error) {
		err = json.Unmarshal(old, &s)
		return s, step, err
	}}
}

// A sub's state moves with its instance, through any number of transitions: what the sub did is undone by it.
func TestMigrationKeepsTheStateOfSubs(t *testing.T) {
	t.Parallel()
	w, v := saga.Wait[labState, ping]{Name: "w"}, saga.Wait[labState, ping]{Name: "v"}
	l := newLab(t, "sqlite", withPart(1, w), saga.EngineConfig{}, uow.Config{})
	stop := l.run()
	l.start("x")
	l.at("x", saga.Running, "w")
	stop()
	e, _ := l.again()
	moved := saga.Register(e, withPart(2, w, v), sameState(1))
	l.inHome(func(ctx context.Context) error { return moved.Signal(ctx, "x", ping{}) })
	if i, err := moved.Get(t.Context(), "x"); err != nil || i.Version != 2 || i.Step != "v" {
		t.Fatalf("moved: %+v, %v", i, err)
	}
	l.inHome(func(ctx context.Context) error { return moved.Cancel(ctx, "x", "changed my mind") })
	i, err := moved.Get(t.Context(), "x")
	if err != nil || i.Status != saga.Compensating || i.Step != "sub/a" {
		t.Errorf("undone: %+v, %v", i, err)
	}
}

// An instance that is being undone is suspended, not declared undone, if the new version lacks a step that it has done.
func TestMigrationOfACompensationLosesNoUndo(t *testing.T) {
	t.Parallel()
	graph := func(version int, first string) *saga.Definition[labState] {
		return saga.MustDefine("lab", version, patient(def.undo(first)), patient(def.undo("b")), patient(def.pivot("p")))
	}
	l := newLab(t, "sqlite", graph(1, "a"), saga.EngineConfig{}, uow.Config{})
	l.plan("x p", refuses("no"))
	l.plan("x undo b", refuses("not now"))
	stop := l.run()
	l.start("x")
	l.at("x", saga.Parked, "b")
	stop()
	skip := saga.Intervention{Type: "lab", Key: "x", Action: saga.ActSkip, Actor: "ann", Reason: "undone by hand"}

	e, _ := l.again()
	saga.Register(e, graph(2, "renamed"), sameState(1))
	if err := e.Intervene(t.Context(), skip); err == nil || !strings.Contains(err.Error(), "has no a") {
		t.Errorf("without the step: %v", err)
	}
	for s, err := range e.List(t.Context(), only("x")) {
		if err != nil || s.Status != saga.Suspended || s.Version != 1 {
			t.Errorf("without the step: %+v, %v", s, err)
		}
	}

	e, _ = l.again()
	moved := saga.Register(e, graph(3, "a"), sameState(1))
	must(t, e.Intervene(t.Context(), skip))
	if i, err := moved.Get(t.Context(), "x"); err != nil || i.Status != saga.Compensating || i.Step != "a" {
		t.Errorf("with the step: %+v, %v", i, err)
	}
}

// Whoever knows the newest version reads instances that still go on by an older one, as far as their states are alike.
func TestGetReadsInstancesOfOtherVersions(t *testing.T) {
	t.Parallel()
	graph := func(version int) *saga.Definition[labState] {
		return saga.MustDefine("lab", version, patient(def.undo("a")), patient(def.pivot("p")))
	}
	l := newLab(t, "sqlite", graph(1), saga.EngineConfig{}, uow.Config{})
	l.start("x")
	e, both := l.again(graph(1), graph(2))
	if i, err := both[1].Get(t.Context(), "x"); err != nil || i.Version != 1 || i.Step != "a" || i.State.ID != "x" {
		t.Errorf("by version 2: %+v, %v", i, err)
	}
	other := saga.Register(e, saga.MustDefine("lab", 3, saga.Step[partState, work, worked]{
		Name: "p", Pivot: true, Do: func(s *partState) work { return work{ID: s.ID} },
	}))
	_, err := other.Get(t.Context(), "x")
	if err == nil || errors.Is(err, saga.ErrUnknownVersion) || !strings.Contains(err.Error(), "another type") {
		t.Errorf("with another state: %v", err)
	}
	_, newer := l.again(graph(2))
	if _, err := newer[0].Get(t.Context(), "x"); !errors.Is(err, saga.ErrUnknownVersion) {
		t.Errorf("without version 1: %v", err)
	}
}
