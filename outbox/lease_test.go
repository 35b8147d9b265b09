package outbox_test

import (
	"context"
	"database/sql"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/surge-go/surge/outbox"
	"gorm.io/gorm"
)

// met is a transaction whose first statement meets another one's: it goes on when both have done it, or when the other
// one seems to wait for it.
type met struct {
	gorm.ConnPool
	first sync.Once
	here  chan struct{}
	there chan struct{}
}

func (m *met) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	res, err := m.ConnPool.ExecContext(ctx, query, args...)
	m.first.Do(func() {
		close(m.here)
		timer := time.NewTimer(300 * time.Millisecond)
		defer timer.Stop()
		select {
		case <-m.there:
		case <-timer.C:
		}
	})
	return res, err
}

// Relays that renew their leases at the same moment, in time or after all of them have expired, do not end in a
// deadlock: PostgreSQL takes a second to find it, a good part of a lease.
func TestRenewalsDoNotDeadlock(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"postgres", "mysql"} {
		for what, expired := range map[string]bool{"in time": false, "too late": true} {
			t.Run(name+" "+what, func(t *testing.T) {
				t.Parallel()
				testRenewals(t, databases[name](t), expired)
			})
		}
	}
}

func testRenewals(t *testing.T, db *gorm.DB, expired bool) {
	box, _ := newOutbox(t, db)
	a, b := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	defer all.Wait()
	for owner, m := range map[string]*met{"a": {here: a, there: b}, "b": {here: b, there: a}} {
		renew, _, err := outbox.LeaseLocks(box, owner)
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		if err := renew(ctx, db.Statement.ConnPool); err != nil { // it joins
			t.Fatal(err)
		}
		defer all.Go(func() {
			err := db.Transaction(func(tx *gorm.DB) error {
				m.ConnPool = tx.Statement.ConnPool
				return renew(ctx, m)
			}, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
			if err != nil {
				t.Errorf("%s: %v", owner, err)
			}
		})
	}
	if expired {
		for _, table := range []string{"outbox_member", "outbox_lease"} {
			if err := db.Exec("UPDATE " + table + " SET expires_at = 1").Error; err != nil {
				t.Fatal(err)
			}
		}
	}
}

// The rows of a relay's own leases are locked in one order by whatever it does, wherever they stand in the table.
func TestLeasesAreLockedInOneOrder(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	box, _ := newOutbox(t, db)
	renew, lock, err := outbox.LeaseLocks(box, "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if err := renew(ctx, db.Statement.ConnPool); err != nil {
		t.Fatal(err)
	}
	for shard := outbox.Shards - 2; shard >= 0; shard-- { // now the last is the first, and the first the last
		if err := db.Exec("UPDATE outbox_lease SET epoch = epoch WHERE shard = ?", shard).Error; err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	for _, do := range []func(context.Context, gorm.ConnPool) error{renew, lock} {
		all.Go(func() {
			for range 200 {
				err := db.Transaction(func(tx *gorm.DB) error { return do(ctx, tx.Statement.ConnPool) })
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// A relay that takes over a shard finds what the one before has moved to the retry table, whatever the isolation of
// transactions is by default: also what was committed after the renewal had begun.
func TestRenewalSeesWhatWasMovedMeanwhile(t *testing.T) {
	t.Parallel()
	db := openPostgresWith(t, "&default_transaction_isolation=repeatable%20read")
	box, _ := newOutbox(t, db)
	renew, err := outbox.Renewal(box, "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := renew(t.Context()); err != nil { // it joins
		t.Fatal(err)
	}
	statements(t, db, "UPDATE outbox_lease SET owner = 'b', expires_at = 1 WHERE shard = 7")
	before, member := db.Begin(), db.Begin()
	defer before.Rollback()
	defer member.Rollback()
	statements(t, before, "SELECT 1 FROM outbox_lease WHERE shard = 7 FOR UPDATE",
		`INSERT INTO outbox_retry
			(seq, shard, id, topic, aggregateid, type, headers, payload, created_at, attempts, due_at, error)
			VALUES (1, 7, 'i', 'topic', 'k', '', '{}', '', 0, 0, 0, '')`)
	statements(t, member, "SELECT 1 FROM outbox_member FOR UPDATE")
	var pid int
	if err := member.Raw("SELECT pg_backend_pid()").Row().Scan(&pid); err != nil {
		t.Fatal(err)
	}
	var retrying []int
	var all sync.WaitGroup
	all.Go(func() { retrying, err = renew(context.Background()) })
	within(t, "it waits for its own row", func() bool {
		var n int
		query := "SELECT count(*) FROM pg_stat_activity WHERE ? = ANY(pg_blocking_pids(pid))"
		return db.Raw(query, pid).Row().Scan(&n) == nil && n == 1
	})
	for _, tx := range []*gorm.DB{before, member} {
		if err := tx.Commit().Error; err != nil {
			t.Error(err)
		}
	}
	all.Wait()
	if err != nil || !slices.Equal(retrying, []int{7}) {
		t.Errorf("retries in shards %d, %v", retrying, err)
	}
}

// Handlers that take longer than a lease, as they may, do not cost the relay its leases.
func TestSlowHandlersLeaveTheLeasesAlone(t *testing.T) {
	eachServer(t, func(t *testing.T, db *gorm.DB) {
		to := &scripted{}
		f := serve(t, db, to, outbox.RelayConfig{Lease: time.Second})
		f.publish(t, "topic", "k", "1")
		f.drain(t)
		gate := make(chan struct{})
		var handlers sync.WaitGroup
		defer handlers.Wait()
		defer close(gate)
		for range 2 { // as many as the unit of work has writers
			entered := make(chan struct{})
			handlers.Go(func() {
				err := f.unit.Do(context.Background(), func(context.Context) error { close(entered); <-gate; return nil })
				if err != nil {
					t.Error(err)
				}
			})
			<-entered
		}
		f.renewed(t) // it may have been under way
		f.renewed(t)
		_, f.unit = newOutbox(t, db) // of another process
		f.publish(t, "topic", "k", "2")
		within(t, "it leaves", func() bool { return len(to.ids()) == 2 })
	})
}
