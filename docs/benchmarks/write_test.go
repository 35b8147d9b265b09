package benchmarks_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/outbox/uow/pgxpipe"
)

// The rows of pgbench's tables at its scale of 1,000, but for the accounts, which are those of its scale of 1.
const (
	branches = 1_000
	tellers  = 10 * branches
	accounts = 100_000
)

// BenchmarkOutboxWrite is what a message adds to a business transaction: that of pgbench with one outbox message and
// without, on PostgreSQL. "tpcb-like" is the script that pgbench runs when it is told of none (three UPDATEs, a SELECT,
// an INSERT), "simple-update" its shorter one (one UPDATE, the SELECT, the INSERT). "alone" is a transaction for each
// on 8 connections; in "groups" 64 callers share transactions. What is missing to a ratio of 1 is the cost. "least" is
// what no outbox can do without: a row of an id and the payload, in a table without an index or defaults, that is not
// even encoded; in groups one INSERT for all.
func BenchmarkOutboxWrite(b *testing.B) {
	w := newWork(b, openPostgres(b))
	w.db.exec(b, "CREATE TABLE branches (bid bigint PRIMARY KEY, bbalance bigint, filler char(88))",
		fmt.Sprintf("INSERT INTO branches SELECT i, 0, '' FROM generate_series(1, %d) AS i", branches),
		"CREATE TABLE tellers (tid bigint PRIMARY KEY, bid bigint, tbalance bigint, filler char(84))",
		fmt.Sprintf("INSERT INTO tellers SELECT i, 1, 0, '' FROM generate_series(1, %d) AS i", tellers),
		"CREATE TABLE accounts (aid bigint PRIMARY KEY, bid bigint, abalance bigint, filler char(84))",
		fmt.Sprintf("INSERT INTO accounts SELECT i, 1, 0, '' FROM generate_series(1, %d) AS i", accounts),
		"CREATE TABLE history (tid bigint, bid bigint, aid bigint, delta bigint, mtime timestamptz, filler char(22))",
		"CREATE TABLE least (id text, payload bytea)",
		"VACUUM ANALYZE branches, tellers, accounts")
	for _, script := range []string{"tpcb-like", "simple-update"} {
		simple := script == "simple-update"
		b.Run(script+"/alone", func(b *testing.B) {
			n := scaled(b, 1024)
			w.compare(b, writes{n: n, goroutines: 8, connections: 8, with: w.apart, simple: simple}, w.insert)
		})
		b.Run(script+"/groups", func(b *testing.B) {
			n := scaled(b, 4096)
			w.compare(b, writes{n: n, goroutines: 4 * callers, connections: 4, with: w.together, simple: simple}, w.collect)
		})
	}
}

func (w *work) compare(b *testing.B, plain writes, least addition) {
	b.Helper()
	message, bare := plain, plain
	message.table, message.also = "outbox", w.send
	bare.table, bare.also = "least", least
	contest(b, "op/s",
		contender{name: "message", against: []string{"plain"}, round: w.round(message)},
		contender{name: "least", against: []string{"plain"}, round: w.round(bare)},
		contender{name: "plain", round: w.round(plain)})
}

// A runner runs fn in a transaction; publish takes a message to it.
type runner func(fn func(tx *gorm.DB, publish func(*message.Message) error) error) error

// apart gives each call a transaction.
func (w *work) apart(*testing.B) runner {
	return func(fn func(*gorm.DB, func(*message.Message) error) error) error {
		return w.db.Transaction(func(tx *gorm.DB) error {
			return fn(tx, func(m *message.Message) error { return w.box.PublishTx(tx, topicName, m) })
		})
	}
}

// together lets calls share transactions.
func (w *work) together(b *testing.B) runner {
	unit, err := uow.New(w.db.DB, uow.Config{Pipeline: pgxpipe.Pipeline{}})
	must(b, err)
	return func(fn func(*gorm.DB, func(*message.Message) error) error) error {
		return unit.Do(context.Background(), func(ctx context.Context) error {
			return fn(uow.DB(ctx), func(m *message.Message) error {
				m.SetContext(ctx)
				return w.box.Publish(topicName, m)
			})
		})
	}
}

// An addition is what the i-th transaction does besides.
type addition func(tx *gorm.DB, i int, publish func(*message.Message) error) error

func (w *work) send(_ *gorm.DB, i int, publish func(*message.Message) error) error {
	return publish(w.message(context.Background(), i))
}

// insert writes a row of the table least by itself, and collect with those of the whole transaction.
func (w *work) insert(tx *gorm.DB, i int, _ func(*message.Message) error) error {
	return tx.Exec("INSERT INTO least VALUES (?, ?)", id(i), w.body).Error
}

func (w *work) collect(tx *gorm.DB, i int, _ func(*message.Message) error) error {
	return uow.BeforeCommitLast(tx.Statement.Context, w, func(ctx context.Context, ids []string) error {
		bodies := make([][]byte, len(ids))
		for i := range bodies {
			bodies[i] = w.body
		}
		_, err := uow.DB(ctx).Statement.ConnPool.ExecContext(ctx,
			"INSERT INTO least SELECT * FROM unnest($1::text[], $2::bytea[])", ids, bodies)
		return err
	}, id(i))
}

// writes are n runs of pgbench's script.
type writes struct {
	n, goroutines, connections int
	with                       func(*testing.B) runner
	simple                     bool     // simple-update, not tpcb-like
	also                       addition // nil does nothing
	table                      string   // where also adds a row each
}

func (w *work) round(p writes) func(b *testing.B) (int, time.Duration) {
	return func(b *testing.B) (int, time.Duration) {
		b.Helper()
		w.db.empty(b, "history", "outbox", "least")
		w.db.connect(b, p.connections)
		run := p.with(b)
		then := w.db.cost(b)
		took := crowd(b, p.goroutines, p.n, func(i int) error {
			return run(func(tx *gorm.DB, publish func(*message.Message) error) error {
				if err := transfer(tx, i, p.simple); err != nil || p.also == nil {
					return err
				}
				return p.also(tx, i, publish)
			})
		})
		w.db.since(b, then, p.n)
		w.db.wants(b, p.n, "SELECT count(*) FROM history")
		if p.also != nil {
			w.db.wants(b, p.n, "SELECT count(DISTINCT id) FROM "+p.table)
		}
		return p.n, took
	}
}

// transfer is pgbench's script. Rows are taken in an order in which no two transactions meet.
func transfer(tx *gorm.DB, i int, simple bool) error {
	branch, teller, account, delta := i%branches+1, i%tellers+1, i*7919%accounts+1, rand.IntN(10_000)-5_000
	if err := tx.Exec("UPDATE accounts SET abalance = abalance + ? WHERE aid = ?", delta, account).Error; err != nil {
		return err
	}
	var balance int64
	if err := tx.Raw("SELECT abalance FROM accounts WHERE aid = ?", account).Row().Scan(&balance); err != nil {
		return err
	}
	if !simple {
		if err := tx.Exec("UPDATE tellers SET tbalance = tbalance + ? WHERE tid = ?", delta, teller).Error; err != nil {
			return err
		}
		if err := tx.Exec("UPDATE branches SET bbalance = bbalance + ? WHERE bid = ?", delta, branch).Error; err != nil {
			return err
		}
	}
	return tx.Exec("INSERT INTO history (tid, bid, aid, delta, mtime) VALUES (?, ?, ?, ?, now())",
		teller, branch, account, delta).Error
}
