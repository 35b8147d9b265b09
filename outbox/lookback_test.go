package outbox_test

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/outbox"
	"gorm.io/gorm"
)

// commit has messages of one key appear, with the numbers that their transactions took long ago.
func commit(t *testing.T, db *gorm.DB, seqs ...int64) {
	t.Helper()
	commitTo(t, db, "topic", seqs...)
}

func commitTo(t *testing.T, db *gorm.DB, topic string, seqs ...int64) {
	t.Helper()
	for _, seq := range seqs {
		err := db.Exec(`INSERT INTO outbox (seq, shard, id, topic, aggregateid, type, headers, payload)
			VALUES (?, 0, 'i', ?, 'k', '', '{}', '')`, seq, topic).Error
		if err != nil {
			t.Fatal(err)
		}
	}
}

// reads reads as a relay on MySQL does, until there is nothing more, and returns what it got.
func reads(t *testing.T, r *outbox.Reading, conn gorm.ConnPool) (seqs []int64) {
	t.Helper()
	for more := true; more; {
		var err error
		if more, err = r.Read(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		got := r.Take("topic", 100)
		seqs, more = append(seqs, got...), more || len(got) > 0
	}
	return seqs
}

// On MySQL and MariaDB a topic that is behind gets more messages that were committed late than it has room for. What
// was committed before them may still appear, and precede what comes later.
func TestRule13_LateMessagesWithoutRoomHideNoOthers(t *testing.T) {
	t.Parallel()
	db := openMySQL(t)
	box, _ := newOutbox(t, db)
	reading, err := outbox.NewReading(t.Context(), box, "mysql", outbox.RelayConfig{Batch: 4, Buffer: 4})
	if err != nil {
		t.Fatal(err)
	}
	read := func() {
		t.Helper()
		if _, err := reading.Read(t.Context(), db.Statement.ConnPool); err != nil {
			t.Fatal(err)
		}
	}
	commit(t, db, 101, 102, 103, 104, 105, 106, 107, 108, 109)
	read()
	read() // the topic falls behind at 105
	reading.Take("topic", 4)
	read()
	reading.Take("topic", 2)
	commit(t, db, 51, 52, 53) // there is room for two
	read()
	commit(t, db, 30, 120)
	got := reads(t, reading, db.Statement.ConnPool)
	if i := slices.Index(got, 30); i < 0 || i > slices.Index(got, 120) {
		t.Errorf("read %d, though 30 was committed before 120", got)
	}
}

// On MySQL and MariaDB what may still appear is looked for until it was looked for after MaxTransaction: a look that
// began earlier and took long, as when the process or its network sleeps, is not the last one.
func TestRule13_LongLookBackIsNotTheLast(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	box, _ := newOutbox(t, db)
	synctest.Test(t, func(t *testing.T) {
		const longest = 10 * time.Second // well below the time between two sweeps
		reading, err := outbox.NewReading(t.Context(), box, "mysql", outbox.RelayConfig{MaxTransaction: longest})
		if err != nil {
			t.Fatal(err)
		}
		commit(t, db, 101)
		reads(t, reading, db.Statement.ConnPool) // the transaction that has taken 51 is open
		time.Sleep(longest / 2)
		tx := db.Begin()
		defer tx.Rollback()
		if err := tx.Exec("SELECT count(*) FROM outbox").Error; err != nil { // from here on it sees nothing new
			t.Fatal(err)
		}
		slow := &slow{tx.Statement.ConnPool, sync.OnceFunc(func() { commit(t, db, 51); time.Sleep(longest) })}
		if got := reads(t, reading, slow); len(got) > 0 {
			t.Fatalf("read %d", got)
		}
		commit(t, db, 120)
		if got := reads(t, reading, db.Statement.ConnPool); !slices.Equal(got, []int64{51, 120}) {
			t.Errorf("read %d", got)
		}
	})
}

// A slow conn does something before it answers what is looked for.
type slow struct {
	gorm.ConnPool
	before func()
}

func (s *slow) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if strings.HasPrefix(query, "SELECT seq FROM") {
		s.before()
	}
	return s.ConnPool.QueryContext(ctx, query, args...)
}
