package saga_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/operator"
)

func TestOperator(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		l := newLab(t, dialect, saga.MustDefine("lab", 1, patient(def.undo("a")), patient(def.pivot("p")), patient(quick("b"))),
			saga.EngineConfig{}, uow.Config{})
		ids := []string{"skipped", "retried", "completed"}
		for _, id := range ids {
			l.plan(id+" b", refuses("bug"))
		}
		l.plan("running p", deferred)
		l.run()
		for _, id := range append(slices.Clone(ids), "running") {
			l.start(id)
		}
		for _, id := range ids {
			l.at(id, saga.Parked, "b")
		}
		l.at("running", saga.Running, "p")
		op := operator.New(l.engine)
		ctx := t.Context()

		lists(t, op, ids)
		refusesWhatHelpsNobody(t, op)
		if n, err := op.Skip(ctx, only("skipped"), by); n != 1 || err != nil {
			t.Errorf("skip: %d, %v", n, err)
		}
		must(t, op.Complete(ctx, "lab", "completed", saga.Completed, by))
		must(t, op.Patch(ctx, "lab", "retried", labState{ID: "retried", Log: "patched"}, by))
		for _, id := range ids {
			l.plan(id+" b", nil)
		}
		if n, err := op.Retry(ctx, saga.Filter{Type: "lab"}, by); n != 1 || err != nil {
			t.Errorf("retry all: %d, %v", n, err)
		}
		for id, log := range map[string]string{"skipped": "a p b:bug", "retried": "patched b", "completed": "a p b:bug"} {
			if i := l.at(id, saga.Completed, ""); i.State.Log != log {
				t.Errorf("%s logged %q", id, i.State.Log)
			}
		}
		if err := op.Complete(ctx, "lab", "completed", saga.Aborted, by); !errors.Is(err, saga.ErrEnded) {
			t.Errorf("end twice: %v", err)
		}
		journal, err := op.Journal(ctx, "lab", "completed")
		must(t, err)
		last := journal[len(journal)-1].Entries
		if got := fmt.Sprint(last); !strings.Contains(got, "force: ann: test") {
			t.Errorf("journaled %s", got)
		}
		if chart, err := l.Mermaid(ctx, "running"); err != nil || !strings.Contains(chart, "p<br>work\"]:::busy") {
			t.Errorf("%s %v", chart, err)
		}
	})
}

func TestOperatorSettlesAndAborts(t *testing.T) {
	t.Parallel()
	s := fleeting(def.undo("a"))
	s.Exhausted, s.Retry.Attempts = saga.Park, 1
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, s, patient(def.pivot("p"))), saga.EngineConfig{}, uow.Config{})
	for _, id := range []string{"done", "never", "aborted"} {
		l.plan(id+" a", deferred)
	}
	l.run()
	op := operator.New(l.engine)
	for _, id := range []string{"done", "never", "aborted"} {
		l.start(id)
	}
	for _, id := range []string{"done", "never", "aborted"} {
		l.at(id, saga.Parked, "a")
	}
	must(t, op.Settle(t.Context(), "lab", "done", "a", cqrs.OutcomeOK, by))
	must(t, op.Settle(t.Context(), "lab", "never", "a", cqrs.OutcomeNotExecuted, by))
	if n, err := op.Abort(t.Context(), only("aborted"), by); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	l.answer("aborted a", worked{"a"}, nil) // its undo waits for this
	l.at("done", saga.Completed, "")
	l.at("never", saga.Compensated, "")
	if i := l.end("aborted"); i.Status != saga.Aborted {
		t.Errorf("aborted: %+v", i)
	}
	l.wantDid("aborted", "undo a")
}

func refusesWhatHelpsNobody(t *testing.T, op *operator.Operator) {
	t.Helper()
	ctx := t.Context()
	if _, err := op.Retry(ctx, saga.Filter{}, by); !errors.Is(err, operator.ErrTooWide) {
		t.Errorf("a filter without type: %v", err)
	}
	if _, err := op.Retry(ctx, only("retried"), operator.By{Actor: "ann"}); err == nil {
		t.Error("an action without a reason")
	}
	if n, err := op.Skip(ctx, only("running"), by); n != 0 || !errors.Is(err, saga.ErrNotStuck) {
		t.Errorf("skip what is not stuck: %d, %v", n, err)
	}
	if err := op.Settle(ctx, "lab", "none", "p", cqrs.OutcomeOK, by); !errors.Is(err, saga.ErrNotFound) {
		t.Errorf("settle nothing: %v", err)
	}
}

func lists(t *testing.T, op *operator.Operator, ids []string) {
	t.Helper()
	ctx := t.Context()
	var parked []string
	for s, err := range op.List(ctx, saga.Filter{Type: "lab", Tag: "lab", Status: []saga.Status{saga.Parked}}) {
		must(t, err)
		parked = append(parked, s.Key)
		if s.Step != "b" || !strings.Contains(s.Reason, "bug") || !slices.Equal(s.Tags, []string{"lab"}) {
			t.Errorf("listed %+v", s)
		}
	}
	if !slices.Equal(parked, ids) {
		t.Errorf("listed %q", parked)
	}
	for _, f := range []saga.Filter{{Tag: "la"}, {Type: "other"}, {Older: time.Hour}, {Status: []saga.Status{saga.Aborted}}} {
		for s := range op.List(ctx, f) {
			t.Errorf("filter %+v lists %+v", f, s)
		}
	}
}
