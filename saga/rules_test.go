package saga_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
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
		l := newLab(t, dialect, saga.MustDefine("lab", 1, patient(def.undo("a")), def.pivot("p"), patient(quick("b"))),
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
		u := def.undo("a")
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
	s := quick("p")
	s.Pivot, s.Timeout, s.Retry.Attempts = true, 100*time.Millisecond, 10
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

func TestRule24_CancelIsDecidedByTheInstance(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		l := newLab(t, dialect, saga.MustDefine("lab", 1,
			patient(def.undo("a")), patient(def.pivot("p")), patient(quick("b")),
			saga.OnCancel[labState]{
				Name: "refund", Note: func(s *labState, why string) { s.note(why) },
				Then: []saga.Node[labState]{patient(quick("r"))},
			}), saga.EngineConfig{}, uow.Config{})
		for _, what := range []string{"at-a a", "at-p p", "at-b b", "refused p"} {
			l.plan(what, deferred)
		}
		l.run()
		l.publish(quit{"before"}) // ahead of the start
		eventually(t, func() bool { return l.home.Processor.Stats().Handled > 0 }, func() string { return "not handled" })
		l.publish(begin{"before"}, begin{"at-a"}, begin{"at-p"}, begin{"at-b"}, begin{"refused"}, begin{"after"})
		l.at("after", saga.Completed, "")
		for _, c := range []struct{ id, step string }{{"at-a", "a"}, {"at-p", "p"}, {"at-b", "b"}, {"refused", "p"}} {
			l.at(c.id, saga.Running, c.step)
			eventually(t, func() bool { return l.envelope(c.id+" "+c.step).ID != "" }, func() string { return "no command" })
			l.publish(quit{c.id})
			eventually(t, func() bool { i, err := l.Get(t.Context(), c.id); return err == nil && i.Cancelled },
				func() string { return "cancel lost" })
		}
		l.publish(quit{"after"})
		l.answer("at-a a", worked{"a"}, nil)
		l.answer("at-p p", worked{"p"}, nil)
		l.answer("at-b b", worked{"b"}, nil)
		l.answer("refused p", worked{}, cqrs.Reject("no", nil))
		for id, want := range map[string]struct {
			status saga.Status
			did    string
			log    string
		}{
			"before":  {saga.Compensated, "undo a", "quit"},
			"at-a":    {saga.Compensated, "undo a", "quit a"},
			"at-p":    {saga.Cancelled, "a, r", "a quit p r"},
			"at-b":    {saga.Cancelled, "a, p, r", "a p quit b r"},
			"refused": {saga.Compensated, "a, undo a", "a quit p:no"},
			"after":   {saga.Cancelled, "a, p, b, r", "a p b quit r"},
		} {
			i := l.at(id, want.status, "")
			if id == "before" { // its cancel came before its first command left: nothing was ever done
				want.did = l.did(id)
				if want.did != "" && want.did != "a, undo a" {
					t.Errorf("before did %q", want.did)
				}
				continue
			}
			l.wantDid(id, want.did)
			if i.State.Log != want.log {
				t.Errorf("%s logged %q, want %q", id, i.State.Log, want.log)
			}
		}
	})
}

func TestRule25_RefusalBehindThePivotParks(t *testing.T) {
	t.Parallel()
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, patient(def.undo("a")), patient(def.pivot("p")), patient(quick("b"))),
		saga.EngineConfig{}, uow.Config{})
	l.plan("x b", refuses("bug"))
	l.run()
	l.start("x")
	i := l.at("x", saga.Parked, "b")
	l.wantDid("x", "a, p")
	if !strings.Contains(i.Reason, "bug") {
		t.Errorf("parked because of %q", i.Reason)
	}
	op := operator.New(l.engine)
	if _, err := op.Abort(t.Context(), only("x"), by); !errors.Is(err, saga.ErrPastPivot) {
		t.Errorf("abort: %v", err)
	}
	l.plan("x b", nil)
	if n, err := op.Retry(t.Context(), only("x"), by); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	l.at("x", saga.Completed, "")
	if got := l.sends("x", "b"); got != "1/1 2/1" {
		t.Errorf("sent as %q", got)
	}
}

func TestRule26_ParallelSettlesThenUndoesWhatWasDecided(t *testing.T) {
	t.Parallel()
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1,
		saga.Parallel("both",
			patient(def.undo("slow")),
			saga.When("flag", func(s *labState) bool { return !s.Flag }, patient(def.undo("taken")),
				saga.Local[labState]{Name: "flip", Do: func(_ context.Context, s *labState) error { s.Flag = true; return nil }},
				patient(def.undo("fails")), patient(def.undo("never")))),
		patient(def.pivot("p"))), saga.EngineConfig{}, uow.Config{})
	l.plan("x slow", deferred)
	l.plan("x fails", refuses("no"))
	l.run()
	l.start("x")
	l.at("x", saga.Compensating, "slow")
	l.wantDid("x", "taken") // nothing is undone before the sibling has settled
	l.answer("x slow", worked{"slow"}, nil)
	l.at("x", saga.Compensated, "")
	l.wantDid("x", "taken, undo taken, undo slow")
}

func TestRule27_TimersWaitWhileRepliesAreLate(t *testing.T) {
	t.Parallel()
	s := def.pivot("p")
	s.Retry.Attempts = 1
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, s), saga.EngineConfig{MaxReplyAge: 500 * time.Millisecond}, uow.Config{})
	l.plan("x p", deferred)
	l.run()
	l.start("x")
	stale := cqrs.Envelope{
		ID: "1", Type: "lab.work", Kind: cqrs.KindReply, OccurredAt: time.Now().Add(-time.Minute),
		Token: "nobody:1:d:p", Outcome: cqrs.OutcomeOK,
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 16 { // 800 ms, more than twice the step's timeout
		<-tick.C
		must(t, l.bus.Publisher().Publish("home.replies", &message.Message{
			UUID: time.Now().String(), Metadata: stale.Metadata(), Payload: []byte("{}"),
		}))
		if i, err := l.Get(t.Context(), "x"); err != nil || i.Status != saga.Running {
			t.Fatalf("fired: %+v, %v", i, err)
		}
	}
	l.at("x", saga.Parked, "p")
}
