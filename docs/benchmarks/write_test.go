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

const accounts = 100_000

// BenchmarkOutboxWrite is what a message adds to a business transaction: that of pgbench's simple-update script (an
// UPDATE, a SELECT, an INSERT) with one outbox message and without, on PostgreSQL. "alone" is a transaction for each
// on 8 connections; in "groups" 64 callers share transactions. What is missing to a ratio of 1 is the cost. "least" is
// what no outbox can do without: a row of an id and the payload, in a table without an index or defaults, that is not
// even encoded; in groups one INSERT for all.
func BenchmarkOutboxWrite(b *testing.B) {
	w := newWork(b, openPostgres(b))
	w.db.exec(b, "CREATE TABLE accounts (aid bigint PRIMARY KEY, bid bigint, abalance bigint, filler char(84))",
		fmt.Sprintf("INSERT INTO accounts SELECT i, 1, 0, '' FROM generate_series(1, %d) AS i", accounts),
		"CREATE TABLE history (aid bigint, delta bigint, mtime timestamptz, filler char(22))",
		"CREATE TABLE least (id text, payload bytea)",
		"VACUUM ANALYZE accounts")
	b.Run("alone", func(b *testing.B) {
		n := scaled(b, 1024)
		contest(b, "op/s",
			contender{name: "message", against: []string{"plain"}, round: w.transfers(n, 8, 8, w.apart, "outbox", w.send)},
			contender{name: "least", against: []string{"plain"}, round: w.transfers(n, 8, 8, w.apart, "least", w.insert)},
			contender{name: "plain", round: w.transfers(n, 8, 8, w.apart, "", nothing)})
	})
	b.Run("groups", func(b *testing.B) {
		n := scaled(b, 4096)
		contest(b, "op/s",
			contender{name: "message", against: []string{"plain"}, round: w.transfers(n, callers, 4, w.together, "outbox", w.send)},
			contender{name: "least", against: []string{"plain"}, round: w.transfers(n, callers, 4, w.together, "least", w.collect)},
			contender{name: "plain", round: w.transfers(n, callers, 4, w.together, "", nothing)})
	})
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

// An addition is what the i-th transfer does besides.
type addition func(tx *gorm.DB, i int, publish func(*message.Message) error) error

func nothing(*gorm.DB, int, func(*message.Message) error) error { return nil }

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

// transfers does n of them from so many goroutines; each adds a row to a table, unless its name is empty.
func (w *work) transfers(
	n, goroutines, connections int, with func(*testing.B) runner, table string, also addition,
) func(b *testing.B) (int, time.Duration) {
	return func(b *testing.B) (int, time.Duration) {
		b.Helper()
		w.db.empty(b, "history", "outbox", "least")
		w.db.connect(b, connections)
		run := with(b)
		then := w.db.cost(b)
		took := crowd(b, goroutines, n, func(i int) error {
			return run(func(tx *gorm.DB, publish func(*message.Message) error) error {
				if err := transfer(tx, i); err != nil {
					return err
				}
				return also(tx, i, publish)
			})
		})
		w.db.since(b, then, n)
		w.db.wants(b, n, "SELECT count(*) FROM history")
		if table != "" {
			w.db.wants(b, n, "SELECT count(DISTINCT id) FROM "+table)
		}
		return n, took
	}
}

// transfer is pgbench's simple-update script. Accounts are taken in an order in which no two transactions meet.
func transfer(tx *gorm.DB, i int) error {
	account, delta := i*7919%accounts+1, rand.IntN(10_000)-5_000
	if err := tx.Exec("UPDATE accounts SET abalance = abalance + ? WHERE aid = ?", delta, account).Error; err != nil {
		return err
	}
	var balance int64
	if err := tx.Raw("SELECT abalance FROM accounts WHERE aid = ?", account).Row().Scan(&balance); err != nil {
		return err
	}
	return tx.Exec("INSERT INTO history (aid, delta, mtime) VALUES (?, ?, now())", account, delta).Error
}
