package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// counting counts the INSERT statements that pass.
type counting struct {
	gorm.ConnPool
	gorm.TxCommitter
	inserts int
}

func (c *counting) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if strings.HasPrefix(query, "INSERT") {
		c.inserts++
	}
	return c.ConnPool.ExecContext(ctx, query, args...)
}

// One statement inserts all messages of a transaction; where a statement is bounded, as few as possible.
func TestRule13_OneInsert(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]map[int]int{
		"sqlite":   {1: 1, 64: 1, 1000: 16},
		"postgres": {1: 1, 64: 1, 20_000: 1},
		"mysql":    {1: 1, 64: 1, 5000: 1, 20_000: 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := databases[name](t)
			box, _ := newOutbox(t, db)
			for n, statements := range want {
				tx := db.Begin()
				pool := &counting{ConnPool: tx.Statement.ConnPool, TxCommitter: tx.Statement.ConnPool.(gorm.TxCommitter)}
				tx.Statement.ConnPool = pool
				msgs := make([]*message.Message, n)
				for i := range msgs {
					msgs[i] = message.NewMessage(fmt.Sprint(i), []byte("x"))
				}
				if err := box.PublishTx(tx, "topic", msgs...); err != nil {
					t.Fatal(err)
				}
				if pool.inserts != statements {
					t.Errorf("%d messages: %d statements, want %d", n, pool.inserts, statements)
				}
				tx.Rollback()
			}
		})
	}
}

// Numbers follow the order of publishing within a transaction, and are never used again once rows are gone.
func TestRule13_SeqGrows(t *testing.T) {
	t.Parallel()
	for name, open := range databases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := open(t)
			box, unit := newOutbox(t, db)
			last := int64(0)
			for range 3 {
				fill(t, box, unit, 200)
				rows, err := db.Raw("SELECT id, seq FROM outbox ORDER BY seq").Rows()
				if err != nil {
					t.Fatal(err)
				}
				n := 0
				for rows.Next() {
					var id string
					var seq int64
					if err := rows.Scan(&id, &seq); err != nil {
						t.Fatal(err)
					}
					if want := fmt.Sprintf("0198c0de-0000-7000-8000-%012d", n); id != want || seq <= last {
						t.Fatalf("row %d is %s with seq %d after %d", n, id, seq, last)
					}
					last = seq
					n++
				}
				if err := errors.Join(rows.Err(), rows.Close(), db.Exec("DELETE FROM outbox").Error); err != nil {
					t.Fatal(err)
				}
				if n != 200 {
					t.Fatalf("%d rows", n)
				}
			}
		})
	}
}

func TestPublishRefusesBadMessages(t *testing.T) {
	t.Parallel()
	box, unit := newOutbox(t, openSQLite(t))
	for what, change := range map[string]func(topic *string, m *message.Message){
		"no topic": func(topic *string, _ *message.Message) { *topic = "" },
		"bad time": func(_ *string, m *message.Message) { m.Metadata.Set(outbox.HeaderDeliverAt, "tomorrow") },
	} {
		err := unit.Do(context.Background(), func(ctx context.Context) error {
			topic, m := "topic", message.NewMessage("1", nil)
			m.SetContext(ctx)
			change(&topic, m)
			return box.Publish(topic, m)
		})
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

// A message that is nil is refused before anything of its call is taken.
func TestPublishRefusesNil(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	box, unit := newOutbox(t, db)
	refused := func(how string, err error) {
		if err == nil || !strings.Contains(err.Error(), "publish to topic: message 2 of 2 is nil") {
			t.Errorf("%s: %v", how, err)
		}
	}
	err := unit.Do(t.Context(), func(ctx context.Context) error {
		m := message.NewMessage("1", nil)
		m.SetContext(ctx)
		refused("Publish", box.Publish("topic", m, nil))
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	err = db.Transaction(func(tx *gorm.DB) error {
		refused("PublishTx", box.PublishTx(tx, "topic", message.NewMessage("1", nil), nil))
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if got := stats(t, box).Depth; got != 0 {
		t.Errorf("%d messages were taken", got)
	}
}

// What a database would refuse, cut or change is refused by name, and only that.
func TestPublishRefusesTextThatIsNotKept(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db *gorm.DB) {
		box, _ := newOutbox(t, db)
		fields := map[string]func(topic *string, m *message.Message, text string){
			"id":              func(_ *string, m *message.Message, text string) { m.UUID = text },
			"topic":           func(topic *string, _ *message.Message, text string) { *topic = text },
			outbox.HeaderKey:  func(_ *string, m *message.Message, text string) { m.Metadata[outbox.HeaderKey] = text },
			outbox.HeaderType: func(_ *string, m *message.Message, text string) { m.Metadata[outbox.HeaderType] = text },
			`metadata "a"`:    func(_ *string, m *message.Message, text string) { m.Metadata["a"] = text },
		}
		publish := func(field, text string) error {
			topic, m := "topic", message.NewMessage("1", nil)
			fields[field](&topic, m, text)
			return db.Transaction(func(tx *gorm.DB) error { return box.PublishTx(tx, topic, m) })
		}
		for field := range fields {
			for text, want := range map[string]string{
				"a\xffb":                          field + " is not UTF-8",
				"a\x00b":                          field + " holds a NUL",
				strings.Repeat("😀", 256):          field + " has 256 characters, at most 255",
				strings.Repeat("😀", 255):          "",
				" ä\t\\\"\u2028\u0001'%_?<{now} ": "",
			} {
				if strings.HasPrefix(field, "metadata") && text != "a\xffb" {
					want = ""
				}
				err := publish(field, text)
				if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
					t.Errorf("%s %q: want %q, got %v", field, text, want, err)
				}
			}
		}
		if got := stats(t, box).Depth; got != 5*2+2 {
			t.Errorf("%d messages were taken", got)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	if _, err := outbox.New(nil, outbox.Config{}); err == nil {
		t.Error("no database: no error")
	}
	box, _ := newOutbox(t, openSQLite(t))
	if _, err := outbox.NewRelay(box, nil, outbox.RelayConfig{}); err == nil {
		t.Error("no publisher: no error")
	}
	_, err := outbox.NewRelay(box, &counter{}, outbox.RelayConfig{
		Batch: -1, Lease: time.Millisecond, Owner: strings.Repeat("x", 300), Grace: -1,
	})
	for _, field := range []string{"Batch", "Lease", "Owner", "Grace"} {
		if err == nil || !strings.Contains(err.Error(), "RelayConfig."+field) {
			t.Errorf("%s is not named: %v", field, err)
		}
	}
}

func TestMissingTablesAreNamed(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	box, err := outbox.New(db, outbox.Config{})
	if err != nil {
		t.Fatal(err)
	}
	relay := newRelay(t, box, &counter{}, outbox.RelayConfig{})
	if err := relay.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "migrated") {
		t.Errorf("got %v", err)
	}
}

func TestMigrations(t *testing.T) {
	t.Parallel()
	for _, dialect := range []string{"postgres", "mysql", "sqlite"} {
		files, err := fs.Glob(outbox.Migrations(dialect), "*.sql")
		if err != nil || len(files) == 0 {
			t.Errorf("%s: %v, %v", dialect, files, err)
		}
	}
	files, err := fs.Glob(outbox.Migrations("oracle"), "*")
	if err != nil || len(files) != 0 {
		t.Errorf("%v, %v", files, err)
	}
	db := openSQLite(t)
	for range 2 {
		if err := outbox.Migrate(context.Background(), db); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStats(t *testing.T) {
	t.Parallel()
	box, unit := newOutbox(t, openSQLite(t))
	if s, err := box.Stats(context.Background()); err != nil || s.Depth != 0 || s.Oldest != 0 || len(s.Shards) != 64 {
		t.Errorf("%+v, %v", s, err)
	}
	fill(t, box, unit, 100)
	s, err := box.Stats(context.Background())
	if err != nil || s.Depth != 100 || s.Oldest < 0 || s.Oldest > time.Minute {
		t.Errorf("%+v, %v", s, err)
	}
	sum := int64(0)
	for _, shard := range s.Shards {
		sum += shard.Depth
	}
	if sum != 100 {
		t.Errorf("%d in shards", sum)
	}
}

// Publishing costs a bounded number of allocations per message, since it is in every handler's path.
func TestPublishAllocates(t *testing.T) {
	if testing.Short() {
		t.Skip("allocation budgets are not for short runs")
	}
	box, unit := newOutbox(t, openSQLite(t))
	err := unit.Do(context.Background(), func(ctx context.Context) error {
		m := message.NewMessage("1", []byte("payload"))
		m.Metadata.Set(outbox.HeaderKey, "k")
		m.SetContext(ctx)
		if n := testing.AllocsPerRun(100, func() {
			if err := box.Publish("topic", m); err != nil {
				t.Error(err)
			}
		}); n > 12 {
			t.Errorf("%v allocations", n)
		}
		return uow.ErrDoomed // nothing of this is to stay
	})
	if !errors.Is(err, uow.ErrDoomed) {
		t.Error(err)
	}
}
