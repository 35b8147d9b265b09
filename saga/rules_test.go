package saga_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/operator"
)

var by = operator.By{Actor: "ann", Reason: "test"}

func only(id string) saga.Filter { return saga.Filter{Type: "lab", Key: id} }

// sends lists the sends of a step in the journal, as incarnation/try.
func (l *lab) sends(id, step string) string {
	l.t.Helper()
	journal, err := l.engine.Journal(l.t.Context(), "lab", id)
	must(l.t, err)
	var list []string
	for _, tr := range journal {
		for _, e := range tr.Entries {
			if e.What == "send" && e.Step == step {
				list = append(list, fmt.Sprintf("%d/%d", e.Inc, e.Try))
			}
		}
	}
	return strings.Join(list, " ")
}

// A definite "not executed" is neither a refusal nor a doubt: the step is sent again under a new token.
func TestRule19_NotExecutedIsNotFailed(t *testing.T) {
	t.Parallel()
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, patient(def.undo("a")), patient(def.pivot("p"))),
		saga.EngineConfig{}, uow.Config{})
	var calls atomic.Int32
	l.plan("x p", func(context.Context) error {
		if calls.Add(1) == 1 {
			return cqrs.ErrNotExecuted
		}
		return nil
	})
	l.run()
	l.start("x")
	l.at("x", saga.Completed, "")
	if got := l.sends("x", "p"); got != "1/1 2/2" {
		t.Errorf("the pivot was sent as %q", got)
	}
}

func TestRule20_PivotInDoubtIsNeitherUndoneNorPassed(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		p := fleeting(def.pivot("p"))
		l := newLab(t, dialect, saga.MustDefine("lab", 1, patient(def.undo("a")), p, patient(quick("b"))),
			saga.EngineConfig{}, uow.Config{})
		l.plan("x p", deferred) // it runs, and does not answer
		l.run()
		l.start("x")
		l.at("x", saga.Parked, "p")
		if got := l.sends("x", "p"); got != "1/1 1/2" {
			t.Errorf("the pivot was sent as %q: not under one token", got)
		}
		op := operator.New(l.engine)
		for name, act := range map[string]func() (int, error){
			"skip":  func() (int, error) { return op.Skip(t.Context(), only("x"), by) },
			"abort": func() (int, error) { return op.Abort(t.Context(), only("x"), by) },
		} {
			if n, err := act(); n != 0 || !errors.Is(err, saga.ErrPivotInDoubt) {
				t.Errorf("%s: got %d, %v", name, n, err)
			}
		}
		l.publish(quit{"x"})
		eventually(t, func() bool { i, err := l.Get(t.Context(), "x"); return err == nil && i.Cancelled },
			func() string { return "the cancel did not arrive" })
		l.at("x", saga.Parked, "p")
		l.answer("x p", worked{"p"}, nil)
		l.at("x", saga.Completed, "")
		l.wantDid("x", "a, b") // the deferred p left no line
	})
}

// Before the pivot doubt is undone, and the participant settles the do first: it waits for it.
func TestRule20_UndoSettlesFirst(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		u := fleeting(def.undo("a"))
		u.Retry.Attempts = 1
		l := newLab(t, dialect, saga.MustDefine("lab", 1, u, patient(def.pivot("p"))), saga.EngineConfig{}, uow.Config{})
		l.plan("x a", deferred)
		l.run()
		l.start("x")
		eventually(t, func() bool { return l.world.Processor.Stats().Postponed > 0 },
			func() string { return "the undo does not wait for the do" })
		if got := l.did("x"); got != "" {
			t.Fatalf("undone before it settled: %q", got)
		}
		l.answer("x a", worked{"a"}, nil)
		if i := l.end("x"); i.Status != saga.Compensated {
			t.Errorf("ended as %+v", i)
		}
		l.wantDid("x", "undo a")
	})
}

// end waits for an end, letting an operator retry what parks.
func (l *lab) end(id string) saga.Instance[labState] {
	l.t.Helper()
	op := operator.New(l.engine)
	var got saga.Instance[labState]
	eventually(l.t, func() bool {
		var err error
		if got, err = l.Get(l.t.Context(), id); err == nil && got.Status == saga.Parked {
			_, err = op.Retry(l.t.Context(), only(id), by)
		}
		return err == nil && got.Status.Ended()
	}, func() string { return fmt.Sprintf("%s does not end: %+v", id, got) })
	return got
}

func TestRule21_RetriesKeepTheTokenAndAnyReplyCounts(t *testing.T) {
	t.Parallel()
	s := fleeting(def.pivot("p"))
	s.Retry.Attempts = 10
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, s), saga.EngineConfig{}, uow.Config{})
	l.plan("x p", deferred)
	l.run()
	l.start("x")
	eventually(t, func() bool { return strings.Count(l.sends("x", "p"), " ") >= 2 }, func() string { return "no retries" })
	l.answer("x p", worked{"p"}, nil) // the reply to the first try
	l.at("x", saga.Completed, "")
	if got := l.sends("x", "p"); !strings.HasPrefix(got, "1/1 1/2 1/3") || strings.Contains(got, "2/") {
		t.Errorf("sent as %q", got)
	}
}

// Locals write in the transaction of the transition. Many writers at once must not run them twice.
func TestRule22_LocalsRunOnceUnderContention(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		const n = 12
		var nodes []saga.Node[labState]
		for i := range n {
			nodes = append(nodes,
				saga.Wait[labState, ping]{Name: fmt.Sprintf("wait-%d", i)},
				saga.Local[labState]{Name: fmt.Sprintf("local-%d", i), Do: func(ctx context.Context, s *labState) error {
					return uow.DB(ctx).Exec("INSERT INTO ran (id) VALUES (?)", i).Error
				}})
		}
		l := newLab(t, dialect, saga.MustDefine("lab", 1, nodes...), saga.EngineConfig{}, uow.Config{MaxShare: 1, Writers: 8})
		l.inHome(func(ctx context.Context) error { return uow.DB(ctx).Exec("CREATE TABLE ran (id INTEGER)").Error })
		l.start("x")
		errs := make(chan error, n)
		for range n {
			go func() {
				errs <- l.home.Work.Do(context.Background(), func(ctx context.Context) error {
					return l.Signal(ctx, "x", ping{ID: "x"})
				})
			}()
		}
		for range n {
			must(t, <-errs)
		}
		i, err := l.Get(t.Context(), "x")
		must(t, err)
		var rows, distinct int
		l.inHome(func(ctx context.Context) error {
			return uow.DB(ctx).Raw("SELECT count(*), count(DISTINCT id) FROM ran").Row().Scan(&rows, &distinct)
		})
		if i.Status != saga.Completed || rows != n || distinct != n {
			t.Errorf("%s after %d rows, %d distinct; want %d", i.Status, rows, distinct, n)
		}
	})
}

// Pure transitions are not locked: the compare-and-set decides, and the loser is folded again.
func TestRule22_LosersOfTheCompareAndSetRunAgain(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		const n = 24
		var nodes []saga.Node[labState]
		for i := range n {
			nodes = append(nodes, saga.Wait[labState, ping]{
				Name: fmt.Sprintf("wait-%d", i), On: func(s *labState, p ping) { s.note(p.Text) },
			})
		}
		l := newLab(t, dialect, saga.MustDefine("lab", 1, nodes...), saga.EngineConfig{}, uow.Config{MaxShare: 1, Writers: 8})
		l.start("x")
		errs := make(chan error, n)
		for range n {
			go func() {
				errs <- l.home.Work.Do(context.Background(), func(ctx context.Context) error {
					return l.Signal(ctx, "x", ping{Text: "p"})
				})
			}()
		}
		for range n {
			must(t, <-errs)
		}
		if i, err := l.Get(t.Context(), "x"); err != nil || i.Status != saga.Completed || strings.Count(i.State.Log, "p") != n {
			t.Errorf("%+v, %v; want %d signals taken", i, err, n)
		}
	})
}

// A poisoned instance keeps its messages, in order, until an operator lets it go on; the others are not disturbed.
func TestRule22_SuspendedInstancesStash(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		var broken atomic.Bool
		broken.Store(true)
		hear := func(s *labState, p ping) {
			if broken.Load() && p.Text == "1" && s.ID == "bad" {
				panic("poison")
			}
			s.note(p.Text)
		}
		node := func(name string) saga.Node[labState] {
			return saga.Wait[labState, ping]{Name: name, Key: func(p ping) string { return p.ID }, On: hear}
		}
		l := newLab(t, dialect, saga.MustDefine("lab", 1, node("1"), node("2"), node("3")), saga.EngineConfig{}, uow.Config{})
		l.run()
		l.publish(begin{"bad"}, begin{"good"})
		l.at("bad", saga.Running, "1")
		for _, text := range []string{"1", "2", "3"} {
			l.publish(ping{"bad", text}, ping{"good", text})
		}
		if i := l.at("good", saga.Completed, ""); i.State.Log != "1 2 3" {
			t.Errorf("good heard %q", i.State.Log)
		}
		if i := l.at("bad", saga.Suspended, "1"); !strings.Contains(i.Reason, "poison") {
			t.Errorf("suspended because of %q", i.Reason)
		}
		broken.Store(false)
		op := operator.New(l.engine)
		if n, err := op.Retry(t.Context(), only("bad"), by); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if i := l.at("bad", saga.Completed, ""); i.State.Log != "1 2 3" {
			t.Errorf("bad heard %q", i.State.Log)
		}
	})
}

func TestRule23_SignalsAreNeverMissed(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		wait := saga.Wait[labState, ping]{
			Name: "wait", Key: func(p ping) string { return p.ID }, On: func(s *labState, p ping) { s.note(p.Text) },
		}
		l := newLab(t, dialect, saga.MustDefine("lab", 1, patient(def.undo("a")), wait),
			saga.EngineConfig{Early: time.Hour}, uow.Config{MaxShare: 1})
		l.plan("between a", deferred)
		l.run()
		l.inHome(func(ctx context.Context) error { return l.Signal(ctx, "before", ping{Text: "early"}) })
		if _, err := l.Get(t.Context(), "before"); !errors.Is(err, saga.ErrNotFound) {
			t.Errorf("a placeholder is no saga: %v", err)
		}
		l.start("before")
		if i := l.at("before", saga.Completed, ""); i.State.Log != "a early" {
			t.Errorf("adopted %q", i.State.Log)
		}
		l.start("between")
		l.at("between", saga.Running, "a")
		l.publish(ping{"between", "stashed"})
		eventually(t, func() bool { j, _ := l.engine.Journal(t.Context(), "lab", "between"); return len(j) == 2 },
			func() string { return "not stashed" })
		eventually(t, func() bool { return l.envelope("between a").ID != "" }, func() string { return "a never came" })
		l.answer("between a", worked{"a"}, nil)
		if i := l.at("between", saga.Completed, ""); i.State.Log != "a stashed" {
			t.Errorf("stashed %q", i.State.Log)
		}
		done := make(chan error, 40)
		for i := range 20 {
			id := fmt.Sprintf("race-%d", i)
			for _, f := range []func(context.Context) error{
				func(ctx context.Context) error { return l.Start(ctx, id, labState{ID: id}) },
				func(ctx context.Context) error { return l.Signal(ctx, id, ping{Text: "raced"}) },
			} {
				go func() { done <- l.home.Work.Do(context.Background(), f) }()
			}
		}
		for range 40 {
			must(t, <-done)
		}
		for i := range 20 {
			l.at(fmt.Sprintf("race-%d", i), saga.Completed, "")
		}
	})
}

func TestRule23_PlaceholdersExpireIntoDeadLetters(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		wait := saga.Wait[labState, ping]{Name: "wait", Key: func(p ping) string { return p.ID }}
		l := newLab(t, dialect, saga.MustDefine("lab", 1, wait), saga.EngineConfig{Early: time.Millisecond}, uow.Config{})
		l.run()
		l.publish(ping{"nobody", "lost"})
		var dead int
		eventually(t, func() bool {
			l.inHome(func(ctx context.Context) error {
				return uow.DB(ctx).Raw("SELECT count(*) FROM cqrs_dead WHERE topic = 'outside.events'").Row().Scan(&dead)
			})
			return dead == 1
		}, func() string { return fmt.Sprintf("%d dead letters", dead) })
		var rows int
		l.inHome(func(ctx context.Context) error {
			return uow.DB(ctx).Raw("SELECT count(*) FROM saga_instances").Row().Scan(&rows)
		})
		if rows != 0 {
			t.Errorf("%d placeholders are left", rows)
		}
	})
}
