package outbox_test

import (
	"fmt"
	"math"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	mysqldriver "github.com/go-sql-driver/mysql"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/outboxtest"
	"gorm.io/driver/mysql"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
)

func statements(t *testing.T, db *gorm.DB, queries ...string) {
	t.Helper()
	for _, q := range queries {
		if err := db.Exec(q).Error; err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

func stats(t *testing.T, box *outbox.Outbox) outbox.Stats {
	t.Helper()
	s, err := box.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// pile puts 2^n copies of a message into a table, spread over the shards.
func pile(t *testing.T, db *gorm.DB, table, columns, values string, n int) {
	t.Helper()
	columns = "shard, id, topic, aggregateid, type, headers, payload" + columns
	statements(t, db, "INSERT INTO "+table+" ("+columns+") VALUES (0, 'id', 'topic', '', '', '{}', ''"+values+")")
	for range n {
		statements(t, db, "INSERT INTO "+table+" ("+columns+") SELECT (seq + 1) % 64"+
			strings.TrimPrefix(columns, "shard")+" FROM "+table)
	}
}

// onAll runs a test on every database.
func onAll(t *testing.T, test func(t *testing.T, db *gorm.DB)) {
	t.Helper()
	for name, open := range databases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := open(t)
			newOutbox(t, db)
			test(t, db)
		})
	}
}

func near(got, want int64) bool { return math.Abs(float64(got-want)) < 0.1*float64(want) }

// A large backlog is estimated, a small one counted.
func TestStatsOfALargeBacklog(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, db *gorm.DB) {
		box, _ := newOutbox(t, db)
		pile(t, db, "outbox", "", "", 16)
		pile(t, db, "outbox_scheduled", ", due_at", ", 9000000000000000", 14)
		s := stats(t, box)
		if !near(s.Depth, 1<<16) || s.Scheduled != 1<<14 || s.Retrying != 0 || s.Overdue != 0 {
			t.Errorf("depth %d, scheduled %d, retrying %d, overdue %v", s.Depth, s.Scheduled, s.Retrying, s.Overdue)
		}
		var sum int64
		for _, shard := range s.Shards {
			sum += shard.Depth
		}
		if sum != s.Depth {
			t.Errorf("%d in shards, %d in all", sum, s.Depth)
		}
		// A gap behind the first rows, as a topic that does not leave makes one.
		statements(t, db, "DELETE FROM outbox WHERE seq BETWEEN 1001 AND 40000")
		var want int64
		if err := db.Raw("SELECT count(*) FROM outbox").Row().Scan(&want); err != nil {
			t.Fatal(err)
		}
		if s := stats(t, box); !near(s.Depth, want) {
			t.Errorf("depth %d of %d", s.Depth, want)
		}
	})
}

func TestStatsOfTroubledMessages(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, db *gorm.DB) {
		box, _ := newOutbox(t, db)
		const columns = "seq, shard, id, topic, aggregateid, type, headers, payload, created_at, attempts, error"
		for i, topic := range []string{"orders", "orders", "mails"} {
			statements(t, db, fmt.Sprintf("INSERT INTO outbox_dead ("+columns+", died_at, state, actor, reason, acted_at) "+
				"VALUES (%d, 0, 'id', '%s', '', '', '{}', '', 0, 3, 'refused', 0, 'dead', '', '', 0)", i+1, topic))
		}
		statements(t, db,
			"INSERT INTO outbox_dead ("+columns+", died_at, state, actor, reason, acted_at) "+
				"VALUES (9, 0, 'id', 'orders', '', '', '{}', '', 0, 3, 'refused', 0, 'replayed', 'ann', 'fixed', 0)",
			"INSERT INTO outbox_retry ("+columns+", due_at) VALUES (4, 0, 'id', 'orders', '', '', '{}', '', 0, 1, 'no', 0)",
			"INSERT INTO outbox_scheduled (due_at, shard, id, topic, aggregateid, type, headers, payload) "+
				"VALUES (1, 0, 'id', 'orders', '', '', '{}', '')",
			"INSERT INTO outbox (shard, id, topic, aggregateid, type, headers, payload, created_at) "+
				"VALUES (3, 'id', 'orders', '', '', '{}', '', 1)")
		s := stats(t, box)
		if s.Dead != 3 || fmt.Sprint(s.DeadBy) != "map[mails:1 orders:2]" || s.Retrying != 1 || s.Scheduled != 1 {
			t.Errorf("dead %d %v, retrying %d, scheduled %d", s.Dead, s.DeadBy, s.Retrying, s.Scheduled)
		}
		if s.Depth != 1 || s.Shards[3].Depth != 1 || s.Oldest < time.Hour || s.Overdue < time.Hour {
			t.Errorf("depth %d, %d; oldest %v, overdue %v", s.Depth, s.Shards[3].Depth, s.Oldest, s.Overdue)
		}
	})
}

// heldBy waits until the holder is the one that is wanted: other tests' transactions come and go.
func heldBy(t *testing.T, box *outbox.Outbox, id string) (h outbox.Holder) {
	t.Helper()
	within(t, "the holder is "+id, func() bool {
		s := stats(t, box)
		if s.HolderErr != nil {
			t.Fatal(s.HolderErr)
		}
		if s.Holder != nil {
			h = *s.Holder
		}
		return h.ID == id
	})
	return h
}

func TestHolderOnPostgres(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	box, _ := newOutbox(t, db)
	tx := db.Begin()
	defer tx.Rollback()
	var pid string
	err := tx.Raw("SELECT pg_backend_pid()::text FROM outbox_meta, set_config('application_name', 'sluggard', true), " +
		"pg_current_xact_id()").Row().Scan(&pid)
	if err != nil {
		t.Fatal(err)
	}
	h := heldBy(t, box, pid)
	if h.Kind != "session" || h.Application != "sluggard" || h.State != "idle in transaction" || h.Age < h.Statement ||
		h.Statement <= 0 {
		t.Errorf("%+v", h)
	}
}

// A role without privileges learns who it is, and that there is more to know.
func TestHolderUnseenOnPostgres(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	newOutbox(t, db)
	var schema string
	if err := db.Raw("SELECT current_schema()").Row().Scan(&schema); err != nil {
		t.Fatal(err)
	}
	statements(t, db, "CREATE ROLE "+schema+" LOGIN", "GRANT USAGE ON SCHEMA "+schema+" TO "+schema,
		"GRANT SELECT ON ALL TABLES IN SCHEMA "+schema+" TO "+schema)
	admin := outboxtest.Open(t, postgres.Open(os.Getenv("SURGE_TEST_POSTGRES")))
	t.Cleanup(func() { statements(t, admin, "DROP OWNED BY "+schema, "DROP ROLE "+schema) })
	u, err := url.Parse(os.Getenv("SURGE_TEST_POSTGRES"))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(schema)
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	poor := outboxtest.Open(t, postgres.Open(u.String()))
	box, err := outbox.New(poor, outbox.Config{})
	if err != nil {
		t.Fatal(err)
	}
	tx := db.Begin()
	defer tx.Rollback()
	statements(t, tx, "SELECT pg_current_xact_id()")
	within(t, "it says what it misses", func() bool {
		s := stats(t, box)
		return s.Holder != nil && s.Holder.ID != "" && s.Holder.State == "" && s.HolderErr != nil &&
			strings.Contains(s.HolderErr.Error(), "pg_read_all_stats")
	})
}

func TestHolderOnMySQL(t *testing.T) {
	t.Parallel()
	db := openMySQL(t)
	box, _ := newOutbox(t, db)
	tx := db.Begin()
	defer tx.Rollback()
	var id string
	if err := tx.Raw("SELECT CAST(connection_id() AS CHAR)").Row().Scan(&id); err != nil {
		t.Fatal(err)
	}
	statements(t, tx, "UPDATE outbox_meta SET value = value", "UPDATE outbox_meta SET value = '64 '")
	h := heldBy(t, box, id)
	if h.Kind != "session" || h.Application == "" || h.State != "Sleep" || h.Age < 0 || h.Age > time.Hour {
		t.Errorf("%+v", h)
	}
}

// A session's time zone does not change how old a transaction is.
func TestHoldersAgeOnMySQLInAnotherTimeZone(t *testing.T) {
	t.Parallel()
	db := openMySQL(t)
	newOutbox(t, db)
	cfg, err := mysqldriver.ParseDSN(os.Getenv("SURGE_TEST_MYSQL"))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Raw("SELECT database()").Row().Scan(&cfg.DBName); err != nil {
		t.Fatal(err)
	}
	cfg.Params = map[string]string{"time_zone": "'+05:00'"}
	box, err := outbox.New(outboxtest.Open(t, mysql.Open(cfg.FormatDSN())), outbox.Config{})
	if err != nil {
		t.Fatal(err)
	}
	tx := db.Begin()
	defer tx.Rollback()
	statements(t, tx, "UPDATE outbox_meta SET value = '64 '")
	within(t, "there is a holder", func() bool { return stats(t, box).Holder != nil })
	if h := stats(t, box).Holder; h != nil && (h.Age < -time.Hour || h.Age > time.Hour) {
		t.Errorf("%+v", h)
	}
}

func TestHolderUnseenOnMySQL(t *testing.T) {
	t.Parallel()
	db := openMySQL(t)
	cfg, err := mysqldriver.ParseDSN(os.Getenv("SURGE_TEST_MYSQL"))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Raw("SELECT database()").Row().Scan(&cfg.User); err != nil {
		t.Fatal(err)
	}
	cfg.Passwd, cfg.DBName = "poor", ""
	statements(t, db, "CREATE USER "+cfg.User+" IDENTIFIED BY 'poor'")
	admin := outboxtest.Open(t, mysql.Open(os.Getenv("SURGE_TEST_MYSQL")))
	t.Cleanup(func() { statements(t, admin, "DROP USER "+cfg.User) })
	box, err := outbox.New(outboxtest.Open(t, mysql.Open(cfg.FormatDSN())), outbox.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if h, err := outbox.HolderOf(t.Context(), box); h != nil || err == nil || !strings.Contains(err.Error(), "PROCESS") {
		t.Errorf("holder %+v, %v", h, err)
	}
}

func TestHolderOnSQLite(t *testing.T) {
	t.Parallel()
	box, _ := newOutbox(t, openSQLite(t))
	if s := stats(t, box); s.Holder != nil || s.HolderErr != nil {
		t.Errorf("holder %+v, %v", s.Holder, s.HolderErr)
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	entered, gate := make(chan struct{}), make(chan struct{})
	to := &scripted{script: func(topic string, _ []*message.Message) error {
		switch topic {
		case "slow":
			close(entered)
			<-gate
		case "down":
			return fmt.Errorf("no route to host")
		}
		return nil
	}}
	f := run(t, to, outbox.RelayConfig{Owner: "relay"})
	f.publish(t, "fast", "k", "1")
	f.drain(t)
	f.publish(t, "slow", "k", "2")
	<-entered
	f.publish(t, "slow", "k", "3")
	f.publish(t, "down", "k", "4")
	var p outbox.Progress
	within(t, "one topic hangs and one fails", func() bool {
		p = f.relay.Progress()
		return len(p.Topics) == 2 && p.Topics[0].Failures > 1 && p.Topics[1].Buffered == 1
	})
	down, slow := p.Topics[0], p.Topics[1]
	if !strings.HasPrefix(p.Owner, "relay#") || p.Shards != outbox.Shards || p.Published != 1 {
		t.Errorf("%+v", p)
	}
	if down.Topic != "down" || down.Err == nil || down.Failing <= 0 || slow.Topic != "slow" || slow.Publishing <= 0 {
		t.Errorf("%+v, %+v", down, slow)
	}
	close(gate)
}

func TestRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := outbox.NewRate()
		expect := func(want float64) {
			t.Helper()
			if got := r.PerSecond(); got != want {
				t.Errorf("rate %v, expected %v", got, want)
			}
		}
		expect(0)
		r.Add(30)
		expect(0) // the second is not over
		time.Sleep(time.Second)
		expect(30)
		r.Add(20)
		r.Add(10)
		time.Sleep(time.Second)
		expect(30)
		time.Sleep(8 * time.Second)
		expect(6)
		time.Sleep(time.Second)
		expect(3)
		time.Sleep(time.Second)
		expect(0)
		r.Add(100)
		time.Sleep(time.Hour)
		expect(0)
	})
}
