package saga_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/host"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
)

// again makes another engine on the home database of l, as the next deploy would.
func (l *lab) again(ds ...*saga.Definition[labState]) (*saga.Engine, []*saga.Saga[labState]) {
	l.t.Helper()
	p, err := cqrs.NewProcessor("home", l.home.Sender, cqrs.ProcessorConfig{UnitOfWork: l.home.Work, InTransaction: uow.In})
	must(l.t, err)
	e, err := saga.NewEngine(p, saga.EngineConfig{Poll: time.Millisecond})
	must(l.t, err)
	var list []*saga.Saga[labState]
	for _, d := range ds {
		list = append(list, saga.Register(e, d))
	}
	return e, list
}

func runBriefly(e *saga.Engine) error {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	return e.Run(ctx)
}

func TestSameVersionWithAnotherGraphDoesNotStart(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		one := saga.MustDefine("lab", 1, patient(def.undo("a")), patient(def.pivot("p")))
		l := newLab(t, dialect, one, saga.EngineConfig{}, uow.Config{})
		must(t, runBriefly(l.engine))
		changed := saga.MustDefine("lab", 1, patient(def.undo("b")), patient(def.pivot("p")))
		e, list := l.again(changed)
		if err := runBriefly(e); !errors.Is(err, saga.ErrChanged) {
			t.Errorf("run: %v", err)
		}
		err := l.home.Work.Do(t.Context(), func(ctx context.Context) error { return list[0].Start(ctx, "x", labState{ID: "x"}) })
		if !errors.Is(err, saga.ErrChanged) {
			t.Errorf("start: %v", err)
		}
		e, _ = l.again(one, saga.MustDefine("lab", 2, patient(def.undo("b")), patient(def.pivot("p"))))
		if err := runBriefly(e); err != nil {
			t.Errorf("a new version: %v", err)
		}
	})
}

// A deploy with a graph that changed under its version is taken back. Until then messages come to it, again and again
// as often as it is started, and none of them is to blame: they wait.
func TestMessagesWaitForAnEngineThatCannotStart(t *testing.T) {
	t.Parallel()
	one := saga.MustDefine("lab", 1, hear("w"))
	l := newLab(t, "sqlite", one, saga.EngineConfig{}, uow.Config{})
	must(t, runBriefly(l.engine))
	p, err := cqrs.NewProcessor("home", l.home.Sender, cqrs.ProcessorConfig{
		Subscribe: l.bus.Subscriber, UnitOfWork: l.home.Work, InTransaction: uow.In, Parking: l.home.Parking,
		DeadLetters: l.home.DeadLetters, Retry: cqrs.Retry{Attempts: 2, Min: time.Millisecond, Max: time.Millisecond},
	})
	must(t, err)
	changed, err := saga.NewEngine(p, saga.EngineConfig{})
	must(t, err)
	saga.Register(changed, saga.MustDefine("lab", 1, hear("other")))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	<-p.Running()
	m := message.NewMessage("m", []byte(`{"ID":"x"}`))
	m.Metadata[cqrs.HeaderType], m.Metadata[cqrs.HeaderKey], m.Metadata[cqrs.HeaderKind] = "outside.ping", "x", "event"
	must(t, l.bus.Publisher().Publish("outside.events", m))
	eventually(t, func() bool { return p.Stats().Postponed+p.Stats().Dead > 0 }, func() string { return "nothing came" })
	if s := p.Stats(); s.Failed != 0 || s.Dead != 0 {
		t.Errorf("%+v", s)
	}
	cancel()
	must(t, <-ended)
}

func TestInstancesKeepTheirVersionOrMove(t *testing.T) {
	t.Parallel()
	wait := saga.Wait[labState, ping]{Name: "wait", On: func(s *labState, p ping) { s.note("v1:" + p.Text) }}
	one := saga.MustDefine("lab", 1, patient(def.undo("a")), wait, patient(def.undo("z")))
	wait.On = func(s *labState, p ping) { s.note("v2:" + p.Text) }
	two := saga.MustDefine("lab", 2, patient(def.undo("a")), patient(def.undo("new")), wait, patient(def.undo("z")))
	l := newLab(t, "sqlite", one, saga.EngineConfig{}, uow.Config{})
	stop := l.run()
	for _, id := range []string{"stays", "moves", "waits"} {
		l.start(id)
		l.at(id, saga.Running, "wait")
	}
	stop()
	signal := func(s *saga.Saga[labState], id string) error {
		return l.home.Work.Do(t.Context(), func(ctx context.Context) error { return s.Signal(ctx, id, ping{Text: "x"}) })
	}

	_, both := l.again(one, two)
	must(t, signal(both[1], "stays"))
	if i, err := both[0].Get(t.Context(), "stays"); err != nil || i.Version != 1 || i.State.Log != "a v1:x" || i.Step != "z" {
		t.Errorf("stays: %+v, %v", i, err)
	}

	e, _ := l.again()
	moving := saga.Register(e, two, saga.Migration[labState]{From: 1, Move: func(old []byte, step string) (labState, string, error) {
		var s labState
		err := json.Unmarshal(old, &s)
		s.note("moved")
		return s, step, err
	}})
	must(t, signal(moving, "moves"))
	if i, err := moving.Get(t.Context(), "moves"); err != nil || i.Version != 2 || i.State.Log != "a moved v2:x" || i.Step != "z" {
		t.Errorf("moves: %+v, %v", i, err)
	}

	_, only := l.again(two)
	err := signal(only[0], "waits")
	var later *cqrs.LaterError
	if !errors.As(err, &later) || !errors.Is(err, saga.ErrUnknownVersion) {
		t.Errorf("a message for an unknown version must wait: %v", err)
	}
}

func TestRegistrationFaultsAreReportedAtOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, patient(def.undo("a"))), saga.EngineConfig{}, uow.Config{})
	type unlisted struct{ ID string }
	d := saga.MustDefine("lab", 2,
		saga.Step[labState, other, worked]{
			Name: "s", Do: func(*labState) (o other) { return o },
			Undo: saga.Command(func(*labState) unlisted { return unlisted{} }),
		},
		saga.Wait[labState, unlisted]{Name: "w", Key: func(u unlisted) string { return u.ID }})
	saga.Register(l.engine, d)
	saga.Register(l.engine, d)
	err := runBriefly(l.engine)
	for _, want := range []string{"sends saga_test.other", "sends saga_test.unlisted", "event saga_test.unlisted", "registered twice"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in %v", want, err)
		}
	}
	if _, err := saga.NewEngine(nil, saga.EngineConfig{}); err == nil {
		t.Error("an engine without a processor")
	}
	_, err = saga.NewEngine(l.home.Processor, saga.EngineConfig{TimeoutBatch: -1, Poll: -1, MaxStash: -1, Early: -1})
	if err == nil || strings.Count(err.Error(), "EngineConfig.") != 4 {
		t.Errorf("want four faults, got %v", err)
	}
}

// Stopped and started again and again, sagas go on where they were: with the same tokens, without a step twice.
func TestRestartGoesOn(t *testing.T) {
	t.Parallel()
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1,
		patient(def.undo("a")), patient(def.undo("b")), patient(def.pivot("p")), patient(quick("z"))),
		saga.EngineConfig{}, uow.Config{})
	l.start("x")
	for range 100 {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Millisecond)
		err := host.Run(ctx, l.home, l.world)
		cancel()
		must(t, err)
		if i, err := l.Get(t.Context(), "x"); err == nil && i.Status.Ended() {
			if i.Status != saga.Completed || i.State.Log != "a b p z" {
				t.Errorf("%+v", i)
			}
			l.wantDid("x", "a, b, p, z")
			return
		}
	}
	t.Fatal("it does not end")
}
