package saga_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
)

// hear is a Wait that writes down what it took.
func hear(name string) saga.Wait[labState, ping] {
	return saga.Wait[labState, ping]{
		Name: name, Key: func(p ping) string { return p.ID }, On: func(s *labState, p ping) { s.note(p.Text) },
	}
}

// An event is taken once, however many versions of the saga are registered.
func TestVersionsShareAnEvent(t *testing.T) {
	t.Parallel()
	one := saga.MustDefine("lab", 1, hear("first"), hear("second"), patient(def.pivot("p")))
	two := saga.MustDefine("lab", 2, hear("first"), hear("second"), hear("third"), patient(def.pivot("p")))
	l := newLab(t, "sqlite", one, saga.EngineConfig{}, uow.Config{})
	l.Saga = saga.Register(l.engine, two)
	l.run()
	l.start("x")
	l.publish(ping{"x", "approved"})
	eventually(t, func() bool {
		i, err := l.Get(t.Context(), "x")
		return err == nil && i.State.Log != ""
	}, func() string { return "the event is lost" })
	if i, err := l.Get(t.Context(), "x"); err != nil || i.State.Log != "approved" || i.Step != "second" {
		t.Errorf("one event was taken as %q, the saga stands at %q, %v", i.State.Log, i.Step, err)
	}
}

// An event goes where the newest version says, in whatever order the versions are registered.
func TestNewestVersionSaysWhomAnEventIsFor(t *testing.T) {
	t.Parallel()
	byText := hear("w")
	byText.Key = func(p ping) string { return p.Text }
	two := saga.MustDefine("lab", 2, byText, patient(def.pivot("p")))
	l := newLab(t, "sqlite", two, saga.EngineConfig{}, uow.Config{})
	saga.Register(l.engine, saga.MustDefine("lab", 1, hear("w"), patient(def.pivot("p"))))
	l.run()
	l.start("x")
	l.publish(ping{ID: "somebody", Text: "x"})
	l.at("x", saga.Completed, "")
}

// Each Wait for an event hears it by its own Key: one that has none, or that names another saga, keeps it from none.
func TestEachWaitHearsByItsOwnKey(t *testing.T) {
	t.Parallel()
	signalled, byText := hear("signalled"), hear("by text")
	signalled.Key = nil
	byText.Key = func(p ping) string { return p.Text }
	d := saga.MustDefine("lab", 1, signalled, hear("by id"), byText)
	l := newLab(t, "sqlite", d, saga.EngineConfig{}, uow.Config{})
	l.run()
	l.start("x")
	l.inHome(func(ctx context.Context) error { return l.Signal(ctx, "x", ping{}) })
	l.publish(ping{ID: "x", Text: "y"})
	l.at("x", saga.Running, "by text")
	l.publish(ping{ID: "y", Text: "x"})
	l.at("x", saga.Completed, "")
}

// An event whose key no saga can have becomes a dead letter that says so. Those that come with it are taken.
func TestEventWithAKeyThatIsTooLong(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		byText := hear("w")
		byText.Key = func(p ping) string { return p.Text }
		l := newLab(t, dialect, saga.MustDefine("lab", 1, byText), saga.EngineConfig{}, uow.Config{})
		saga.CancelOn(l.Saga, func(e quit) (string, string) { return strings.Repeat(e.ID, 256), "" })
		l.run()
		l.start("x")
		l.publish(ping{Text: strings.Repeat("x", 256)}, quit{"y"}, ping{Text: "x"})
		l.at("x", saga.Completed, "")
		var dead []gormstore.Letter
		eventually(t, func() bool {
			var err error
			dead, err = l.home.DeadLetters.List(t.Context(), gormstore.DeadFilter{})
			return err == nil && len(dead) == 2
		}, func() string { return fmt.Sprintf("want two dead letters, got %+v", dead) })
		for _, d := range dead {
			if !strings.Contains(d.Reason, "lab: the key has 256 bytes") {
				t.Errorf("the dead letter says %q", d.Reason)
			}
		}
	})
}

// What an engine forgets of sagas that have ended, no topic may deliver again: it would start them once more.
func TestRule10_AnEngineRemembersLongerThanItsTopics(t *testing.T) {
	t.Parallel()
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, hear("w")), saga.EngineConfig{}, uow.Config{})
	for keep, refused := range map[time.Duration]bool{time.Hour: true, 0: false, -1: false} {
		p, err := cqrs.NewProcessor("home", l.home.Sender, cqrs.ProcessorConfig{
			Subscribe: l.bus.Subscriber, UnitOfWork: l.home.Work, InTransaction: uow.In,
			Retention: func(context.Context, string) (time.Duration, error) { return 2 * time.Hour, nil },
		})
		must(t, err)
		e, err := saga.NewEngine(p, saga.EngineConfig{Keep: keep})
		must(t, err)
		saga.Register(e, saga.MustDefine("lab", 1, hear("w")))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		select {
		case <-p.Running():
			cancel()
			err = <-ended
		case err = <-ended:
			cancel()
		}
		if refused != errors.Is(err, cqrs.ErrHorizon) || !refused && err != nil {
			t.Errorf("Keep %v: Run = %v", keep, err)
		}
	}
}
