package gormstore_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"gorm.io/driver/postgres"

	"github.com/surge-go/surge/cqrs/effect"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/outbox/uow"
)

// While one runner looks for what a dead one has left, another begins and takes it: who has looked longer does not see
// that this one lives.
func TestRule34_WhatALivingRunnerHasTakenIsNotClaimedAgain(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	f := newFixture(t, db)
	e, err := gormstore.NewEffects(f.work)
	must(t, err)
	f.do(t, func(ctx context.Context) error {
		rec := &effect.Record{ID: "1", Name: "pay", Owner: "#dead", Keep: time.Hour, Command: []byte("{}"), Intent: []byte("{}")}
		return e.Add(ctx, rec, func() {})
	})
	// The slow one's clock waits for a lock: a function of the schema hides that of the server.
	must(t, db.Exec("CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$"+
		" SELECT pg_advisory_lock_shared(hashtext(current_schema())); SELECT pg_advisory_unlock_shared(hashtext(current_schema()));"+
		" SELECT pg_catalog.clock_timestamp() $$").Error)
	u, err := url.Parse(db.Dialector.(*postgres.Dialector).DSN)
	must(t, err)
	q := u.Query()
	q.Set("search_path", q.Get("search_path")+",pg_catalog")
	u.RawQuery = q.Encode()
	slowDB := open(t, postgres.Open(u.String()))
	t.Cleanup(func() { closeDB(slowDB) })
	work, err := uow.New(slowDB, uow.Config{})
	must(t, err)
	slow, err := gormstore.NewEffects(work)
	must(t, err)
	holder := db.Begin()
	must(t, holder.Exec("SELECT pg_advisory_xact_lock(hashtext(current_schema()))").Error)

	var late []*effect.Record
	done := make(chan error, 1)
	go func() {
		var err error
		late, err = slow.Claim(t.Context(), "#slow", []string{"pay"}, 10)
		done <- err
	}()
	for waiting, deadline := 0, time.Now().Add(10*time.Second); waiting == 0; {
		must(t, db.Raw("SELECT COUNT(*) FROM pg_locks l, pg_stat_activity a WHERE l.pid=a.pid AND l.locktype='advisory'"+
			" AND NOT l.granted AND l.objid=hashtext(current_schema())::oid").Scan(&waiting).Error)
		if time.Now().After(deadline) {
			t.Fatal("nobody looks")
		}
	}
	_, err = e.Beat(t.Context(), "#new", time.Hour)
	must(t, err)
	taken, err := e.Claim(t.Context(), "#new", []string{"pay"}, 10)
	must(t, err)
	must(t, holder.Commit().Error)
	must(t, <-done)
	if len(taken) != 1 || len(late) != 0 {
		t.Errorf("%d were claimed, and then %d", len(taken), len(late))
	}
}
