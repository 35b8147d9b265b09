package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
)

// unwell waits until the relay complains of what is wanted.
func (f *fixture) unwell(t *testing.T, want string) error {
	t.Helper()
	var err error
	within(t, "it complains: "+want, func() bool {
		err = f.relay.Healthy(context.Background())
		return errors.Is(err, outbox.ErrStuck) && strings.Contains(err.Error(), want)
	})
	return err
}

func (f *fixture) well(t *testing.T) {
	t.Helper()
	within(t, "it is well", func() bool { return f.relay.Healthy(context.Background()) == nil })
}

// forbid makes a kind of statement on a table fail, until the function that it returns is called.
func (f *fixture) forbid(t *testing.T, statement, table string) (allow func()) {
	t.Helper()
	f.exec(t, fmt.Sprintf("CREATE TRIGGER forbid BEFORE %s ON %s BEGIN SELECT RAISE(ABORT, 'forbidden'); END",
		statement, table))
	return func() { f.exec(t, "DROP TRIGGER forbid") }
}

var soon = outbox.RelayConfig{StuckAfter: 50 * time.Millisecond, Lease: 600 * time.Millisecond}

func TestUnhealthyWhenItCannotRead(t *testing.T) {
	t.Parallel()
	f := run(t, &scripted{}, soon)
	f.publish(t, "topic", "k", "1")
	f.drain(t)
	f.exec(t, "ALTER TABLE outbox RENAME TO hidden")
	f.unwell(t, "cannot read messages for")
	f.exec(t, "ALTER TABLE hidden RENAME TO outbox")
	f.well(t)
}

func TestUnhealthyWhenItCannotDelete(t *testing.T) {
	t.Parallel()
	f := run(t, &scripted{}, soon)
	allow := f.forbid(t, "DELETE", "outbox")
	f.publish(t, "topic", "k", "1")
	f.unwell(t, "cannot delete what it published for")
	allow()
	f.drain(t)
	f.well(t)
}

func TestUnhealthyWhenItCannotMoveScheduledMessages(t *testing.T) {
	t.Parallel()
	f := run(t, &scripted{}, soon)
	allow := f.forbid(t, "DELETE", "outbox_scheduled")
	f.exec(t, `INSERT INTO outbox_scheduled (due_at, shard, id, topic, aggregateid, type, headers, payload)
		VALUES (1, 0, 'late', 'topic', '', '', '{}', '')`)
	f.unwell(t, "cannot move scheduled messages that are due for")
	allow()
	f.well(t)
}

func TestUnhealthyWhenItCannotTendItsRetries(t *testing.T) {
	t.Parallel()
	to := &scripted{script: func(string, []*message.Message) error { return refusedError{} }}
	f := run(t, to, soon)
	allow := f.forbid(t, "INSERT", "outbox_retry")
	f.publish(t, "topic", "k", "1")
	f.unwell(t, "cannot tend its retries for")
	allow()
	f.well(t)
}

func TestUnhealthyWhenItCannotRenewItsLeases(t *testing.T) {
	t.Parallel()
	f := run(t, &scripted{}, soon)
	f.publish(t, "topic", "k", "1")
	f.drain(t)
	allow := f.forbid(t, "UPDATE", "outbox_lease")
	f.unwell(t, "cannot renew its leases for")
	f.unwell(t, "the leases ran out")
	allow()
	f.well(t)
}

// A relay that never had a lease has none that could run out.
func TestUnhealthyWhenItNeverGetsALease(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	box, unit := newOutbox(t, db)
	f := &fixture{db: db, box: box, unit: unit}
	allow := f.forbid(t, "INSERT", "outbox_member")
	cfg := soon
	cfg.Backoff = time.Millisecond
	f.relay = f.second(t, &scripted{}, cfg)
	f.unwell(t, "cannot renew its leases for")
	allow()
	f.well(t)
}

func TestUnhealthyWhenOthersKeepItsShards(t *testing.T) {
	t.Parallel()
	f := run(t, &scripted{}, soon)
	f.publish(t, "topic", "k", "1")
	f.drain(t)
	f.exec(t, "UPDATE outbox_lease SET owner = 'gone#1', epoch = epoch + 1, expires_at = 9000000000000000")
	f.renewed(t)
	f.publish(t, "topic", "k", "2")
	f.unwell(t, "messages wait in shards that another relay has")
	f.exec(t, "UPDATE outbox_lease SET expires_at = 0")
	f.drain(t)
	f.well(t)
}

func TestUnhealthyWhenThePublisherFailsOrHangs(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	to := &scripted{script: func(topic string, _ []*message.Message) error {
		if topic == "slow" {
			<-gate
			return nil
		}
		return errors.New("no route to host")
	}}
	f := run(t, to, soon)
	defer close(gate)
	f.publish(t, "slow", "k", "1")
	f.publish(t, "down", "k", "2")
	f.unwell(t, "topic slow: Publish has not returned")
	f.unwell(t, "no route to host")
}

// Who pauses a relay because a topic fails, is not told again that it does.
func TestHealthyWhilePausedThoughATopicFails(t *testing.T) {
	t.Parallel()
	to := &scripted{script: func(string, []*message.Message) error { return errors.New("no route to host") }}
	f := run(t, to, soon)
	f.publish(t, "down", "k", "1")
	f.unwell(t, "topic down fails")
	f.relay.Pause()
	if err := f.relay.Healthy(context.Background()); err != nil {
		t.Errorf("paused: %v", err)
	}
	f.relay.Resume()
	f.unwell(t, "topic down fails")
}

// A key that waits behind a refused message is a matter for an operator, not for the process's life.
func TestHealthyWhileAKeyIsBlocked(t *testing.T) {
	t.Parallel()
	to := &scripted{script: func(_ string, msgs []*message.Message) error {
		if msgs[0].UUID == "bad" {
			return refusedError{}
		}
		return nil
	}}
	f := run(t, to, outbox.RelayConfig{Attempts: 1_000_000})
	f.publish(t, "topic", "k", "bad", "behind")
	within(t, "both wait", func() bool {
		s, err := f.box.Stats(context.Background())
		return err == nil && s.Retrying == 2
	})
	if err := f.relay.Healthy(context.Background()); err != nil {
		t.Error(err)
	}
}

// A database that takes a statement and does not answer is as bad as one that refuses it.
func TestUnhealthyWhenTheDatabaseDoesNotAnswer(t *testing.T) {
	t.Parallel()
	f := serve(t, openPostgres(t), &scripted{}, soon)
	tx := f.db.Begin()
	defer tx.Rollback()
	if err := tx.Exec("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE").Error; err != nil {
		t.Fatal(err)
	}
	f.unwell(t, "cannot read messages: no answer for")
	tx.Rollback()
	f.well(t)
}

func TestUnhealthyWhenScheduledMessagesAreLocked(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	newOutbox(t, db)
	err := db.Exec(`INSERT INTO outbox_scheduled (due_at, shard, id, topic, aggregateid, type, headers, payload)
		VALUES (1, 0, 'late', 'topic', '', '', '{}', '')`).Error
	if err != nil {
		t.Fatal(err)
	}
	tx := db.Begin()
	defer tx.Rollback()
	if err := tx.Exec("SELECT 1 FROM outbox_scheduled FOR UPDATE").Error; err != nil {
		t.Fatal(err)
	}
	f := serve(t, db, &scripted{}, soon)
	f.unwell(t, "another transaction has locked the messages that are due")
	tx.Rollback()
	f.well(t)
}

// Messages that are tried one by one are so many calls of Publish, none of which lasts long.
func TestATryIsNoLongCall(t *testing.T) {
	t.Parallel()
	var relay atomic.Pointer[outbox.Relay]
	var returned time.Time // the last call
	to := &scripted{script: func(_ string, msgs []*message.Message) error {
		defer func() { returned = time.Now() }()
		r := relay.Load()
		if r == nil || len(msgs) > 1 {
			return errors.New("refused")
		}
		for _, p := range r.Progress().Topics {
			if since := time.Since(returned); p.Publishing > since {
				t.Errorf("a call is said to have run for %v, the last one ended %v ago", p.Publishing, since)
			}
		}
		return nil
	}}
	f := run(t, to, outbox.RelayConfig{Concurrency: 1}) // one call after the other
	f.relay.Pause()
	for _, k := range keys(20) {
		f.publish(t, "topic", k, k)
	}
	relay.Store(f.relay)
	f.relay.Resume()
	f.drain(t)
}
