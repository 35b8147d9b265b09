package outboxtest

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

const (
	writers = 16
	keys    = 12
	rounds  = 60
)

// testOrder has sixteen writers count up shared keys in overlapping units of work, one of ten fails after it has
// published, while two relays move the messages and a third joins and leaves.
func testOrder(t *testing.T, open Factory) {
	b := newBench(t, open)
	b.keys()
	p := &publisher{}
	r, _ := b.relay(p, outbox.RelayConfig{Batch: 50, Buffer: 100})
	b.relay(p, outbox.RelayConfig{Batch: 50, Buffer: 100})
	b.write(func(w int, rnd *rand.Rand) error {
		key, fails := rnd.IntN(keys), rnd.IntN(10) == 0
		return b.unit.Do(context.Background(), func(ctx context.Context) error {
			n, err := next(uow.DB(ctx), key)
			if err != nil {
				return err
			}
			if rnd.IntN(4) == 0 {
				pause(time.Duration(rnd.IntN(3000)) * time.Microsecond)
			}
			if err := b.box.Publish("topic", newMessage(ctx, strconv.Itoa(key), strconv.Itoa(n))); err != nil {
				return err
			}
			if fails {
				return errScripted
			}
			return nil
		})
	})
	_, stop := b.relay(p, outbox.RelayConfig{})
	b.drained(r)
	if err := stop(); err != nil {
		t.Error(err)
	}
	b.complete(p)
}

// testOwnTransactions does the same with transactions that the unit of work does not own: their messages get their
// numbers early and are committed late, out of order.
func testOwnTransactions(t *testing.T, open Factory) {
	b := newBench(t, open)
	b.keys()
	p := &publisher{}
	r, _ := b.relay(p, outbox.RelayConfig{})
	b.write(func(w int, rnd *rand.Rand) error {
		key, fails := rnd.IntN(keys), rnd.IntN(10) == 0
		publish := func(tx *gorm.DB) error {
			n, err := next(tx, key)
			if err != nil {
				return err
			}
			m := newMessage(context.Background(), strconv.Itoa(key), strconv.Itoa(n))
			if err := b.box.PublishTx(tx, "topic", m); err != nil {
				return err
			}
			if rnd.IntN(4) == 0 {
				pause(time.Duration(rnd.IntN(3000)) * time.Microsecond)
			}
			if fails {
				return errScripted
			}
			return nil
		}
		if b.db.Name() == "sqlite" { // its own transactions begin as readers, which cannot wait for a writer
			return b.unit.Do(context.Background(), func(ctx context.Context) error { return publish(uow.DB(ctx)) })
		}
		return b.db.Transaction(publish, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	})
	b.drained(r)
	b.complete(p)
}

// keys creates the rows that stand for keys.
func (b *bench) keys() {
	b.t.Helper()
	for k := range keys {
		exec(b.t, b.db, "INSERT INTO outboxtest_keys (k, n) VALUES (?, 0)", k)
	}
}

// next locks the key's row and returns its next number.
func next(tx *gorm.DB, key int) (n int, err error) {
	if err := tx.Exec("UPDATE outboxtest_keys SET n = n + 1 WHERE k = ?", key).Error; err != nil {
		return 0, err
	}
	err = tx.Raw("SELECT n FROM outboxtest_keys WHERE k = ?", key).Row().Scan(&n)
	return n, err
}

// write runs the writers.
func (b *bench) write(round func(w int, rnd *rand.Rand) error) {
	b.t.Helper()
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 7))
			for range rounds {
				if err := round(w, rnd); err != nil && !errors.Is(err, errScripted) {
					b.t.Errorf("writer %d: %v", w, err)
					return
				}
			}
		})
	}
	all.Wait()
}

// complete checks that each key's messages appeared first in the order 1, 2, … as far as the key's row says.
func (b *bench) complete(p *publisher) {
	b.t.Helper()
	byKey, _ := p.payloads()
	for k := range keys {
		got := byKey["topic|"+strconv.Itoa(k)]
		want := count(b.t, b.db, "SELECT n FROM outboxtest_keys WHERE k = ?", k)
		if int64(len(got)) != want {
			b.t.Errorf("key %d: %d messages left, %d were committed", k, len(got), want)
		}
		for i, n := range got {
			if n != strconv.Itoa(i+1) {
				b.t.Errorf("key %d: message %d is number %s", k, i+1, n)
				break
			}
		}
	}
}

// testUndone checks that parts that are undone, and inner parts alone, leave nothing behind.
func testUndone(t *testing.T, open Factory) {
	b := newBench(t, open)
	b.keys()
	p := &publisher{}
	r, _ := b.relay(p, outbox.RelayConfig{})
	ctx := context.Background()
	err := b.unit.Do(ctx, func(ctx context.Context) error {
		if err := b.box.Publish("topic", newMessage(ctx, "k", "undone")); err != nil {
			return err
		}
		return errScripted
	})
	if !errors.Is(err, errScripted) {
		t.Fatalf("got %v", err)
	}
	err = b.unit.Do(ctx, func(ctx context.Context) error {
		inner := b.unit.Do(ctx, func(ctx context.Context) error {
			if _, err := next(uow.DB(ctx), 1); err != nil {
				return err
			}
			if err := b.box.Publish("topic", newMessage(ctx, "k", "inner")); err != nil {
				return err
			}
			return errScripted
		})
		if !errors.Is(inner, errScripted) && !errors.Is(inner, uow.ErrDoomed) {
			t.Errorf("inner: %v", inner)
		}
		return b.box.Publish("topic", newMessage(ctx, "k", "outer"))
	})
	if err != nil {
		t.Fatal(err)
	}
	err = b.db.Transaction(func(tx *gorm.DB) error {
		if err := b.box.PublishTx(tx, "topic", newMessage(ctx, "k", "tx")); err != nil {
			return err
		}
		return errScripted
	})
	if !errors.Is(err, errScripted) {
		t.Fatalf("got %v", err)
	}
	if err := b.box.Publish("topic", newMessage(ctx, "k", "none")); !errors.Is(err, uow.ErrNoTransaction) {
		t.Errorf("without a unit of work: %v", err)
	}
	if err := b.box.PublishTx(b.db, "topic", newMessage(ctx, "k", "none")); !errors.Is(err, outbox.ErrNoTransaction) {
		t.Errorf("without a transaction: %v", err)
	}
	b.drained(r)
	if got := p.got("topic", "k"); got != "[outer]" {
		t.Errorf("published %s", got)
	}
}

// testIdleTransaction holds a transaction open that has published. On SQLite, whose one writer it would be, it
// is a reader's.
func testIdleTransaction(t *testing.T, open Factory) {
	b := newBench(t, open)
	p := &publisher{}
	r, _ := b.relay(p, outbox.RelayConfig{Batch: 10})
	if b.db.Name() != "sqlite" {
		tx := b.db.Begin()
		if err := b.box.PublishTx(tx, "topic", newMessage(context.Background(), "idle", "1")); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := tx.Commit().Error; err != nil {
				t.Fatal(err)
			}
			b.eventually("the late message leaves", func() bool { return p.got("topic", "idle") == "[1]" })
			b.drained(r)
		}()
	} else {
		tx := b.db.Begin()
		defer tx.Rollback()
		if n := count(t, tx, "SELECT count(*) FROM outbox"); n != 0 {
			t.Fatalf("%d rows", n)
		}
	}
	for i := range 200 {
		b.publish("topic", strconv.Itoa(i%7), strconv.Itoa(i))
	}
	b.eventually("200 messages leave", func() bool { return r.Published() >= 200 })
	b.eventually("and are deleted", func() bool { return b.stats().Depth == 0 })
	if got := p.got("topic", "idle"); got != "[]" {
		t.Errorf("left before its commit: %s", got)
	}
}

// testScheduled checks that a message does not leave before its time, by the database's clock, and does after it.
func testScheduled(t *testing.T, open Factory) {
	b := newBench(t, open)
	p := &publisher{}
	r, _ := b.relay(p, outbox.RelayConfig{})
	due := time.Now().Add(400 * time.Millisecond)
	var early atomic.Bool
	p.script = func(_ string, msgs []*message.Message) (int, error) {
		for _, m := range msgs {
			if string(m.Payload) == "later" && time.Now().Before(due.Add(-50*time.Millisecond)) {
				early.Store(true)
			}
			if m.Metadata.Get(outbox.HeaderDeliverAt) != "" {
				t.Error("the time was not removed")
			}
		}
		return len(msgs), nil
	}
	err := b.unit.Do(context.Background(), func(ctx context.Context) error {
		later := newMessage(ctx, "k", "later")
		later.Metadata.Set(outbox.HeaderDeliverAt, due.Format(time.RFC3339Nano))
		past := newMessage(ctx, "k", "past")
		past.Metadata.Set(outbox.HeaderDeliverAt, due.Add(-time.Hour).Format(time.RFC3339Nano))
		return b.box.Publish("topic", later, past, newMessage(ctx, "k", "now"))
	})
	if err != nil {
		t.Fatal(err)
	}
	b.eventually("the message leaves", func() bool {
		got := p.got("topic", "k") // what was due at once gets its place when it moves
		return got == "[past now later]" || got == "[now past later]"
	})
	if early.Load() {
		t.Error("it left before its time")
	}
	b.drained(r)
	if n := b.stats().Scheduled; n != 0 {
		t.Errorf("%d scheduled", n)
	}
}
