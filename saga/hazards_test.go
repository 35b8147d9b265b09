package saga_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
)

// measure is a command that may have no encoding.
type measure struct {
	cqrs.Returns[worked]
	Value float64
}

// tally is a Local that counts how often it took effect for an instance.
func tally(name string) saga.Local[labState] {
	return saga.Local[labState]{Name: name, Do: func(ctx context.Context, s *labState) error {
		return uow.DB(ctx).Exec("INSERT INTO tally (id) VALUES (?)", s.ID).Error
	}}
}

func (l *lab) tallies(id string) (n int) {
	l.t.Helper()
	l.inHome(func(ctx context.Context) error {
		return uow.DB(ctx).Raw("SELECT count(*) FROM tally WHERE id = ?", id).Row().Scan(&n)
	})
	return n
}

// A second start does nothing, also where the first node writes to the database.
func TestRule22_SecondStartRunsNoLocal(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		l := newLab(t, dialect, saga.MustDefine("lab", 1, tally("count"), patient(def.pivot("p"))),
			saga.EngineConfig{}, uow.Config{})
		l.inHome(func(ctx context.Context) error {
			return uow.DB(ctx).Exec("CREATE TABLE tally (id VARCHAR(64))").Error
		})
		l.start("x")
		l.start("x")
		if n := l.tallies("x"); n != 1 {
			t.Errorf("the local took effect %d times", n)
		}
	})
}

// An instance that is suspended stays as it was, with what its locals wrote.
func TestRule22_SuspensionUndoesLocals(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		l := newLab(t, dialect, saga.MustDefine("lab", 1,
			saga.Wait[labState, ping]{Name: "first"}, tally("count"),
			saga.Wait[labState, ping]{Name: "second", On: func(*labState, ping) { panic("poison") }},
		), saga.EngineConfig{}, uow.Config{})
		l.inHome(func(ctx context.Context) error { return uow.DB(ctx).Exec("CREATE TABLE tally (id VARCHAR(64))").Error })
		l.start("x")
		l.inHome(func(ctx context.Context) error {
			return errors.Join(l.Signal(ctx, "x", ping{ID: "x"}), l.Signal(ctx, "x", ping{ID: "x"}))
		})
		l.at("x", saga.Suspended, "first")
		if n := l.tallies("x"); n != 0 {
			t.Errorf("the local took effect %d times in a transition that did not happen", n)
		}
		err := l.engine.Intervene(t.Context(), saga.Intervention{
			Type: "lab", Key: "x", Action: saga.ActRetry, Actor: "ann", Reason: "hope",
		})
		if n := l.tallies("x"); err == nil || n != 0 {
			t.Errorf("the local took effect %d times in a retry that was refused with %v", n, err)
		}
	})
}

// A command that cannot be encoded suspends an instance likewise.
func TestRule22_UnencodableCommandUndoesLocals(t *testing.T) {
	t.Parallel()
	// JSON has no infinity.
	p := saga.Step[labState, measure, worked]{
		Name: "p", Pivot: true, Do: func(*labState) measure { return measure{Value: math.Inf(1)} },
	}
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, saga.Wait[labState, ping]{Name: "first"}, tally("count"), p),
		saga.EngineConfig{}, uow.Config{})
	l.inHome(func(ctx context.Context) error { return uow.DB(ctx).Exec("CREATE TABLE tally (id VARCHAR(64))").Error })
	l.start("x")
	l.inHome(func(ctx context.Context) error { return l.Signal(ctx, "x", ping{ID: "x"}) })
	l.at("x", saga.Suspended, "first")
	if n := l.tallies("x"); n != 0 {
		t.Errorf("the local took effect %d times in a transition that did not happen", n)
	}
}

// A start that is poisoned is refused, also when something had come before it: it must not get lost.
func TestRule23_PoisonedStartIsRefused(t *testing.T) {
	t.Parallel()
	p := def.pivot("p")
	p.Do = func(*labState) work { panic("poison") }
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, p, saga.Wait[labState, ping]{Name: "w"}),
		saga.EngineConfig{}, uow.Config{})
	l.inHome(func(ctx context.Context) error { return l.Signal(ctx, "x", ping{ID: "x"}) })
	err := l.home.Work.Do(t.Context(), func(ctx context.Context) error {
		return errors.Join(l.Signal(ctx, "x", ping{ID: "x"}), l.Start(ctx, "x", labState{ID: "x"}))
	})
	if err == nil {
		t.Error("the start was taken")
	}
	if i, err := l.Get(t.Context(), "x"); !errors.Is(err, saga.ErrNotFound) {
		t.Errorf("got %+v, %v", i, err)
	}
}

// An instance that adopts what came before it keeps its tags.
func TestRule23_AdoptedPlaceholderIsTagged(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		l := newLab(t, dialect, saga.MustDefine("lab", 1, patient(def.pivot("p")), saga.Wait[labState, ping]{Name: "w"}),
			saga.EngineConfig{}, uow.Config{})
		l.inHome(func(ctx context.Context) error { return l.Signal(ctx, "x", ping{ID: "x"}) })
		l.start("x")
		if i, err := l.Get(t.Context(), "x"); err != nil || len(i.Tags) != 1 {
			t.Errorf("tags %q, %v", i.Tags, err)
		}
	})
}

// A do that says "not now" leaves nothing behind that would keep it from being tried again.
func TestParticipantThatSaysLaterIsTriedAgain(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "sqlite")
	tries := 0
	d.plan("x a", func(context.Context) error {
		if tries++; tries < 3 {
			return cqrs.Later(10*time.Millisecond, errors.New("not now"))
		}
		return nil
	})
	if got := d.send("x:1:d:a", time.Time{}, work{ID: "x", Step: "a"}, true); got != `ok {"Step":"a"}` {
		t.Errorf("got %q", got)
	}
}

// A do that says that it was not executed leaves nothing behind.
func TestParticipantThatWasNotExecutedWroteNothing(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "sqlite")
	must(t, d.world.Work.Do(t.Context(), func(ctx context.Context) error {
		return uow.DB(ctx).Exec("CREATE TABLE tally (id VARCHAR(64))").Error
	}))
	d.plan("x a", func(ctx context.Context) error {
		if err := uow.DB(ctx).Exec("INSERT INTO tally (id) VALUES ('x')").Error; err != nil {
			return err
		}
		return cqrs.ErrNotExecuted
	})
	if got := d.send("x:1:d:a", time.Time{}, work{ID: "x", Step: "a"}, true); got != "not_executed" {
		t.Errorf("got %q", got)
	}
	var n int
	must(t, d.world.Work.Do(t.Context(), func(ctx context.Context) error {
		return uow.DB(ctx).Raw("SELECT count(*) FROM tally").Row().Scan(&n)
	}))
	if n != 0 {
		t.Errorf("it wrote %d rows", n)
	}
}

// What came while an instance was suspended is not lost when an operator helps it in another way than a retry; only
// what poisoned it is left out.
func TestRule22_WhatCameWhileSuspendedOutlivesASkip(t *testing.T) {
	t.Parallel()
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1,
		patient(def.pivot("p")),
		saga.Wait[labState, ping]{Name: "first", Timeout: 50 * time.Millisecond},
		saga.Wait[labState, ping]{Name: "second", On: func(s *labState, _ ping) { s.note("ping") }},
		saga.OnCancel[labState]{Name: "cancel", Note: func(*labState, string) { panic("poison") }},
	), saga.EngineConfig{}, uow.Config{})
	l.run()
	l.start("x")
	l.at("x", saga.Parked, "first")
	l.inHome(func(ctx context.Context) error { return l.Cancel(ctx, "x", "changed my mind") })
	l.at("x", saga.Suspended, "first")
	l.inHome(func(ctx context.Context) error { return l.Signal(ctx, "x", ping{ID: "x"}) })
	err := l.engine.Intervene(t.Context(), saga.Intervention{
		Type: "lab", Key: "x", Action: saga.ActSkip, Actor: "ann", Reason: "the first is not needed",
	})
	if err != nil {
		t.Fatal(err)
	}
	if i := l.at("x", saga.Completed, ""); i.State.Log != "p ping" {
		t.Errorf("logged %q", i.State.Log)
	}
	journal, err := l.engine.Journal(t.Context(), "lab", "x")
	if err != nil {
		t.Fatal(err)
	}
	dropped := 0
	for _, step := range journal {
		for _, e := range step.Entries {
			if e.What == "dropped" {
				dropped++
			}
		}
	}
	if dropped != 1 {
		t.Errorf("%d messages are journaled as dropped, want the poisoned one", dropped)
	}
}
