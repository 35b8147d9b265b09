package gormstore_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs/effect"
)

// Settle finds out who holds the intent when its transaction begins. A Claim that shares the transaction, before it in
// the queue, takes an intent whose owner's lease is over, and locks do not keep a transaction from itself.
func TestEffectsOneTransactionDoesNotBothClaimAndSettle(t *testing.T) {
	t.Parallel()
	f := onSQLite(t)
	e := effects(t, f)
	beat(t, e, "#dead", time.Microsecond)
	beat(t, e, "#me", time.Hour)
	rec := intent("1", "#dead")
	add(t, f, e, rec)
	time.Sleep(10 * time.Millisecond)
	started, goOn := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { _ = f.work.Do(t.Context(), func(context.Context) error { close(started); <-goOn; return nil }) })
	<-started
	var claimed []*effect.Record
	var settled error
	wg.Go(func() { claimed, _ = e.Claim(t.Context(), "#me", []string{"capture"}, 10) })
	time.Sleep(50 * time.Millisecond)
	wg.Go(func() { settled = e.Settle(t.Context(), rec, func(context.Context) error { return nil }) })
	time.Sleep(50 * time.Millisecond)
	close(goOn)
	wg.Wait()
	if len(claimed) == 1 && settled == nil {
		t.Fatalf("claimed %q, which was settled by #dead in the same commit", names(claimed))
	}
}

// One row that cannot be decoded stops all claims of all effects by all runners.
func TestEffectsAnUnreadableEnvelopeDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		e := effects(t, f)
		beat(t, e, "#me", time.Hour)
		add(t, f, e, intent("1", ""))
		add(t, f, e, intent("2", ""))
		must(t, f.db.Exec("UPDATE cqrs_effects SET envelope='{' WHERE id='1'").Error)
		got, err := e.Claim(t.Context(), "#me", []string{"capture"}, 10)
		if err != nil {
			t.Fatalf("claimed %q, %v", names(got), err)
		}
	})
}

func TestEffectsNamesThatDifferInCaseDifferOnSQLite(t *testing.T) {
	t.Parallel()
	f := onSQLite(t)
	e := effects(t, f)
	beat(t, e, "Pay#1", time.Hour)
	add(t, f, e, intent("1", "Pay#1"))
	beat(t, e, "pay#1", time.Hour)
	if got := claim(t, e, "pay#1", 10); len(got) != 0 {
		t.Fatalf("claimed %q from a live owner of another name", names(got))
	}
}
