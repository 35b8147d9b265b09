package benchmarks_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/outbox/uow/pgxpipe"
)

const (
	callers   = 64 // concurrent callers, and the size of a group
	topicName = "orders"
)

// BenchmarkUnitOfWork has 64 concurrent callers with an INSERT, an UPDATE and an outbox message each. On PostgreSQL
// "alone" is a transaction for each call, with the number of connections that suits it best, and "by-hand" are
// transactions of 64 calls that somebody wrote as a loop.
func BenchmarkUnitOfWork(b *testing.B) {
	b.Run("postgres", func(b *testing.B) {
		w := newWork(b, openPostgres(b))
		n := scaled(b, 2048)
		all := []contender{
			w.surge(n, 2), w.surge(n, 4), w.queued(n, 1), w.queued(n, 2), w.queued(n, 4),
		}
		for _, connections := range []int{8, 16, 32, 64} {
			all = append(all, w.alone(n/4, connections))
		}
		all = append(all, w.byHand(n, 1, callers))
		for _, writers := range []int{2, 4} { // with as many calls under way as there are callers, and with more
			all = append(all, w.byHand(n, writers, callers/writers), w.byHand(n, writers, callers))
		}
		contest(b, "op/s", all...)
	})
	b.Run("sqlite", func(b *testing.B) {
		w := newWork(b, openSQLite(b))
		n := scaled(b, 4096)
		contest(b, "op/s", w.surge(n, 1), w.alone(n/16, 1), w.byHand(n, 1, callers))
	})
}

// work is what the calls do.
type work struct {
	db   *database
	box  *outbox.Outbox
	body []byte
}

func newWork(b *testing.B, db *database) *work {
	b.Helper()
	must(b, outbox.Migrate(context.Background(), db.DB))
	db.exec(b, "CREATE TABLE items (id bigint PRIMARY KEY, name text NOT NULL, n bigint NOT NULL)")
	box, err := outbox.New(db.DB, outbox.Config{})
	must(b, err)
	return &work{db: db, box: box, body: make([]byte, 300)}
}

// statements are the two of a call.
func (w *work) statements(tx *gorm.DB, i int) error {
	if err := tx.Exec(insertItem, i, "item").Error; err != nil {
		return err
	}
	return tx.Exec(updateItem, i).Error
}

const (
	insertItem = "INSERT INTO items (id, name, n) VALUES (?, ?, 0)"
	updateItem = "UPDATE items SET n = n + 1 WHERE id = ?"
)

func (w *work) message(ctx context.Context, i int) *message.Message {
	m := message.NewMessage(id(i), w.body)
	m.Metadata = message.Metadata{
		"ce_partitionkey": fmt.Sprint(i), "ce_type": "orders.placed", "ce_kind": "event", "ce_source": "orders",
		"ce_specversion": "1.0", "ce_time": "2026-01-01T00:00:00Z", "content-type": "application/json",
	}
	m.SetContext(ctx)
	return m
}

// measured empties the tables, does n calls in the given way, and looks whether every effect is there.
func (w *work) measured(b *testing.B, connections, n int, do func() time.Duration) (int, time.Duration) {
	b.Helper()
	w.db.empty(b, "items", "outbox")
	w.db.connect(b, connections)
	then := w.db.cost(b)
	took := do()
	w.db.since(b, then, n)
	w.db.wants(b, n, "SELECT count(*) FROM items WHERE n = 1")
	w.db.wants(b, n, "SELECT count(DISTINCT id) FROM outbox")
	return n, took
}

func (w *work) surge(n, writers int) contender {
	return w.shared("surge", n, uow.Config{Writers: writers}, func(ctx context.Context, i int) error {
		return w.statements(uow.DB(ctx), i)
	})
}

// queued has the two statements wait for those of the others.
func (w *work) queued(n, writers int) contender {
	cfg := uow.Config{Writers: writers, Pipeline: pgxpipe.Pipeline{}}
	return w.shared("surge-queue", n, cfg, func(ctx context.Context, i int) error {
		if err := uow.Queue(ctx, insertItem, i, "item"); err != nil {
			return err
		}
		return uow.QueueOne(ctx, errLost, updateItem, i)
	})
}

var errLost = errors.New("the item is not there")

// shared has 64 callers share transactions.
func (w *work) shared(side string, n int, cfg uow.Config, do func(ctx context.Context, i int) error) contender {
	c := contender{name: fmt.Sprint(side, "-", cfg.Writers), side: side, against: []string{"alone", "by-hand"}}
	c.round = func(b *testing.B) (int, time.Duration) {
		unit, err := uow.New(w.db.DB, cfg)
		must(b, err)
		defer func() { b.ReportMetric(float64(unit.Stats().Parts)/float64(unit.Stats().Commits), "parts/commit") }()
		return w.measured(b, cfg.Writers+2, n, func() time.Duration {
			return crowd(b, callers, n, func(i int) error {
				return unit.Do(context.Background(), func(ctx context.Context) error {
					if err := do(ctx, i); err != nil {
						return err
					}
					return w.box.Publish(topicName, w.message(ctx, i))
				})
			})
		})
	}
	return c
}

// alone gives each call a transaction; callers queue for connections.
func (w *work) alone(n, connections int) contender {
	name := fmt.Sprint("alone-", connections)
	return contender{name: name, side: "alone", round: func(b *testing.B) (int, time.Duration) {
		return w.measured(b, connections, n, func() time.Duration {
			return crowd(b, callers, n, func(i int) error {
				return w.db.Transaction(func(tx *gorm.DB) error {
					if err := w.statements(tx, i); err != nil {
						return err
					}
					return w.box.PublishTx(tx, topicName, w.message(context.Background(), i))
				})
			})
		})
	}}
}

// byHand writes what size callers want in one transaction, and their messages by one statement.
func (w *work) byHand(n, writers, size int) contender {
	name := fmt.Sprintf("by-hand-%dx%d", writers, size)
	return contender{name: name, side: "by-hand", round: func(b *testing.B) (int, time.Duration) {
		return w.measured(b, writers, n, func() time.Duration {
			return crowd(b, writers, (n+size-1)/size, func(group int) error {
				return w.db.Transaction(func(tx *gorm.DB) error {
					msgs := make([]*message.Message, 0, size)
					for i := group * size; i < min(n, (group+1)*size); i++ {
						if err := w.statements(tx, i); err != nil {
							return err
						}
						msgs = append(msgs, w.message(context.Background(), i))
					}
					return w.box.PublishTx(tx, topicName, msgs...)
				})
			})
		})
	}}
}
