package saga_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/operator"
)

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
	s := fleeting(def.pivot("p"))
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
	for range 75 { // 3.75 s, longer than the step's timeout
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
