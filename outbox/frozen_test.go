package outbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/surge-go/surge/outbox"
	"gorm.io/gorm"
)

// freeze lets a relay have half of the shards, and freezes it in the middle of a renewal: its machine has lost its
// power or its route, while the server keeps its transaction open, with all its locks. It returns when its leases are
// over.
func freeze(t *testing.T, f *fixture, patient bool) {
	t.Helper()
	ctx := context.Background()
	renew, _, err := outbox.LeaseLocks(f.box, "z")
	if err != nil {
		t.Fatal(err)
	}
	count := func(query string) (n int64) {
		if err := f.db.Raw(query).Row().Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	within(t, "the other one runs", func() bool {
		return count("SELECT count(*) FROM outbox_lease WHERE owner LIKE 'a#%'") == outbox.Shards
	})
	if err := renew(ctx, f.db.Statement.ConnPool); err != nil {
		t.Fatal(err)
	}
	f.exec(t, "UPDATE outbox_lease SET owner = (SELECT max(owner) FROM outbox_member), epoch = epoch + 1, "+
		"expires_at = (SELECT max(expires_at) FROM outbox_member) WHERE shard % 2 = 1")
	within(t, "each has its half", func() bool {
		return count("SELECT count(*) FROM outbox_lease WHERE owner LIKE 'a#%' AND shard % 2 = 0") == outbox.Shards/2 &&
			count("SELECT count(*) FROM outbox_lease WHERE owner LIKE 'z#%' AND shard % 2 = 1") == outbox.Shards/2
	})
	tx := f.db.Begin(&sql.TxOptions{Isolation: sql.LevelReadCommitted})
	t.Cleanup(func() { tx.Rollback() })
	if err := renew(ctx, tx.Statement.ConnPool); err != nil {
		t.Fatal(err)
	}
	if patient && f.db.Name() == "postgres" {
		if err := tx.Exec("SET LOCAL idle_in_transaction_session_timeout = 0").Error; err != nil {
			t.Fatal(err)
		}
	}
	within(t, "its leases have been over for longer than the others last", func() bool {
		return count(fmt.Sprintf("SELECT count(*) FROM outbox_lease WHERE owner LIKE 'z#%%' AND expires_at > %d",
			time.Now().Add(-2*time.Second).UnixMicro())) == 0
	})
}

// Others go on with what is theirs.
func TestFrozenRelayHoldsUpNobody(t *testing.T) {
	eachServer(t, func(t *testing.T, db *gorm.DB) {
		to := &scripted{}
		f := serve(t, db, to, outbox.RelayConfig{Owner: "a", Lease: time.Second})
		freeze(t, f, true)
		f.publish(t, "topic", keyOf(0), "1")
		within(t, "it leaves", func() bool { return len(to.ids()) == 1 })
	})
}

// PostgreSQL ends the transaction of a relay that was frozen, and its shards are another's.
func TestFrozenRelayIsSucceeded(t *testing.T) {
	t.Parallel()
	to := &scripted{}
	f := serve(t, openPostgres(t), to, outbox.RelayConfig{Owner: "a", Lease: time.Second})
	freeze(t, f, false)
	f.publish(t, "topic", keyOf(1), "1")
	within(t, "it leaves", func() bool { return len(to.ids()) == 1 })
}

// eachServer runs a test on the databases that have locks of rows.
func eachServer(t *testing.T, test func(t *testing.T, db *gorm.DB)) {
	t.Parallel()
	for _, name := range []string{"postgres", "mysql"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, databases[name](t))
		})
	}
}

// keyOf returns a key whose shard's number has a remainder of 2.
func keyOf(remainder int) string {
	for i := 0; ; i++ {
		if key := fmt.Sprint("k", i); outbox.ShardOf(key)%2 == remainder {
			return key
		}
	}
}
