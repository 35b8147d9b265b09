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
)

const accounts = 100_000

// BenchmarkOutboxWrite is what a message adds to a business transaction: that of pgbench's simple-update script (an
// UPDATE, a SELECT, an INSERT) with one outbox message and without, on PostgreSQL. "alone" is a transaction for each
// on 8 connections; in "groups" 64 callers share transactions. What is missing to a ratio of 1 is the cost.
func BenchmarkOutboxWrite(b *testing.B) {
	w := newWork(b, openPostgres(b))
	w.db.exec(b, "CREATE TABLE accounts (aid bigint PRIMARY KEY, bid bigint, abalance bigint, filler char(84))",
		fmt.Sprintf("INSERT INTO accounts SELECT i, 1, 0, '' FROM generate_series(1, %d) AS i", accounts),
		"CREATE TABLE history (aid bigint, delta bigint, mtime timestamptz, filler char(22))",
		"VACUUM ANALYZE accounts")
	b.Run("alone", func(b *testing.B) {
		n := scaled(b, 1024)
		contest(b, "op/s",
			contender{name: "message", round: w.transfers(n, 8, 8, w.apart, 1)},
			contender{name: "plain", round: w.transfers(n, 8, 8, w.apart, 0)})
	})
	b.Run("groups", func(b *testing.B) {
		n := scaled(b, 4096)
		contest(b, "op/s",
			contender{name: "message", round: w.transfers(n, callers, 4, w.together, 1)},
			contender{name: "plain", round: w.transfers(n, callers, 4, w.together, 0)})
	})
}

// A runner runs fn in a transaction; send adds a message to it.
type runner func(fn func(tx *gorm.DB, send func(*message.Message) error) error) error

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
	unit, err := uow.New(w.db.DB, uow.Config{})
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

// transfers does n of them from so many goroutines, with so many messages each.
func (w *work) transfers(
	n, goroutines, connections int, with func(*testing.B) runner, each int,
) func(b *testing.B) (int, time.Duration) {
	return func(b *testing.B) (int, time.Duration) {
		b.Helper()
		w.db.empty(b, "history", "outbox")
		w.db.connect(b, connections)
		run := with(b)
		then := w.db.cost(b)
		took := crowd(b, goroutines, n, func(i int) error {
			return run(func(tx *gorm.DB, send func(*message.Message) error) error {
				if err := transfer(tx, i); err != nil || each == 0 {
					return err
				}
				return send(w.message(context.Background(), i))
			})
		})
		w.db.since(b, then, n)
		w.db.wants(b, n, "SELECT count(*) FROM history")
		w.db.wants(b, n*each, "SELECT count(DISTINCT id) FROM outbox")
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
