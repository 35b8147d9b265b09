package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/glebarez/sqlite"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/cqrs/localbus"
	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
)

// stack is a service on SQLite with everything real: unit of work, inbox, parking, outbox, relay, bus.
type stack struct {
	work *uow.UnitOfWork
	bus  *localbus.Bus
	s    *cqrs.Sender
	p    *cqrs.Processor
	run  func()
}

type line struct {
	ID   uint `gorm:"primaryKey"`
	Key  string
	Text string
}

func newStack(t *testing.T, cfg cqrs.ProcessorConfig) *stack {
	t.Helper()
	file := filepath.Join(t.TempDir(), "shop.db")
	dsn := file + "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)"
	db, err := gorm.Open(sqlite.Open(dsn), &gorm.Config{Logger: logger.Discard})
	must(t, err)
	pool, err := db.DB()
	must(t, err)
	t.Cleanup(func() { _ = pool.Close() })
	ctx := t.Context()
	must(t, errors.Join(outbox.Migrate(ctx, db), idempotency.Migrate(ctx, db), gormstore.Migrate(ctx, db)))
	must(t, db.AutoMigrate(&line{}))
	k := &stack{}
	k.work, err = uow.New(db, uow.Config{})
	must(t, err)
	out, err := outbox.New(db, outbox.Config{})
	must(t, err)
	k.s, err = cqrs.NewSender(catalog(), out, cqrs.SenderConfig{Source: "shop"})
	must(t, err)
	dead, err := gormstore.NewDeadLetters(k.work, gormstore.DeadLettersConfig{})
	must(t, err)
	k.bus = localbus.New(localbus.Config{Groups: []string{"shop"}, Discard: true})
	cfg.Subscribe, cfg.UnitOfWork, cfg.InTransaction = k.bus.Subscriber, k.work, uow.In
	cfg.Inbox = idempotency.NewInbox(idempotency.InboxConfig{})
	cfg.Parking, cfg.DeadLetters = gormstore.NewParking(), dead
	k.p, err = cqrs.NewProcessor("shop", k.s, cfg)
	must(t, err)
	relay, err := outbox.NewRelay(out, k.bus.Publisher(), outbox.RelayConfig{UnitOfWork: k.work})
	must(t, err)
	k.run = func() {
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		for _, run := range []func(context.Context) error{k.p.Run, relay.Run} {
			wg.Go(func() {
				if err := run(ctx); err != nil {
					t.Errorf("Run = %v", err)
				}
			})
		}
		t.Cleanup(func() {
			cancel()
			wg.Wait()
			_ = k.bus.Close()
		})
	}
	return k
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (k *stack) do(t *testing.T, fn func(context.Context) error) {
	t.Helper()
	must(t, k.work.Do(t.Context(), fn))
}

// await polls a query until it is satisfied.
func (k *stack) await(t *testing.T, what string, done func(*gorm.DB) bool) {
	t.Helper()
	limit := time.After(60 * time.Second)
	for {
		ok := false
		k.do(t, func(ctx context.Context) error { ok = done(uow.DB(ctx)); return nil })
		if ok {
			return
		}
		select {
		case <-limit:
			t.Fatalf("%s did not come; stats %+v", what, k.p.Stats())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func count(db *gorm.DB, where string, args ...any) (n int64) {
	db.Model(&line{}).Where(where, args...).Count(&n)
	return n
}

func TestIntegrationEffectsHappenOnceInKeyOrder(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("writes to disk; run without -short")
	}
	k := newStack(t, cqrs.ProcessorConfig{Lanes: 4, Retry: cqrs.Retry{Min: time.Millisecond, Max: 10 * time.Millisecond}})
	var mu sync.Mutex
	tries := map[string]int{}
	cqrs.On(k.p, func(ctx context.Context, n note) error {
		if err := uow.DB(ctx).Create(&line{Key: n.Order, Text: n.Text}).Error; err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		var i int
		_, _ = fmt.Sscan(n.Text, &i)
		if tries[n.Text]++; i%29 == 0 && tries[n.Text] < 4 {
			return errors.New("not yet") // after the write
		}
		if i == 77 {
			panic("not this one")
		}
		return k.s.Publish(ctx, placed{n.Text})
	}, cqrs.SkipDead())
	cqrs.On(k.p, func(ctx context.Context, e placed) error {
		return uow.DB(ctx).Create(&line{Key: "event", Text: e.Order}).Error
	})
	k.run()
	const total = 300
	for from := 0; from < total; from += 100 {
		k.do(t, func(ctx context.Context) error {
			for i := from; i < from+100; i++ {
				if err := k.s.Send(ctx, note{Order: fmt.Sprint("o", i%17), Text: fmt.Sprint(i)}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	k.await(t, "every event", func(db *gorm.DB) bool { return count(db, "key = 'event'") == total-1 })
	k.do(t, func(ctx context.Context) error {
		var lines []line
		must(t, uow.DB(ctx).Where("key <> 'event'").Order("id").Find(&lines).Error)
		last := map[string]int{}
		for _, l := range lines {
			var i int
			_, _ = fmt.Sscan(l.Text, &i)
			if before, ok := last[l.Key]; ok && i <= before {
				t.Errorf("key %s: %d after %d", l.Key, i, before)
			}
			last[l.Key] = i
		}
		if len(lines) != total-1 {
			t.Errorf("%d effects, want %d", len(lines), total-1)
		}
		return nil
	})
	st := k.work.Stats()
	t.Logf("%d commits, %d restarts; %+v", st.Commits, st.Restarts, k.p.Stats())
}

func TestIntegrationADeadLetterIsReplayedAheadOfWhatWaited(t *testing.T) {
	t.Parallel()
	k := newStack(t, cqrs.ProcessorConfig{Retry: cqrs.Retry{Attempts: 2, Min: time.Millisecond, Max: time.Millisecond}})
	var mu sync.Mutex
	broken := true
	cqrs.On(k.p, func(ctx context.Context, n note) error {
		mu.Lock()
		defer mu.Unlock()
		if broken && n.Text == "1" {
			return errors.New("broken")
		}
		return uow.DB(ctx).Create(&line{Key: n.Order, Text: n.Text}).Error
	})
	k.run()
	k.do(t, func(ctx context.Context) error {
		return errors.Join(k.s.Send(ctx, note{"a", "1"}), k.s.Send(ctx, note{"a", "2"}), k.s.Send(ctx, note{"b", "3"}))
	})
	var id string
	k.await(t, "the dead letter", func(db *gorm.DB) bool {
		return db.Raw("SELECT id FROM cqrs_dead WHERE state='dead'").Scan(&id).Error == nil && id != "" &&
			count(db, "text = '3'") == 1
	})
	mu.Lock()
	broken = false
	mu.Unlock()
	if n, err := k.p.Replay(t.Context(), id); n != 1 || err != nil {
		t.Fatalf("Replay = %d, %v", n, err)
	}
	k.await(t, "the rest of the key", func(db *gorm.DB) bool { return count(db, "key = 'a'") == 2 })
	k.do(t, func(ctx context.Context) error {
		var texts []string
		must(t, uow.DB(ctx).Model(&line{}).Where("key = 'a'").Order("id").Pluck("text", &texts).Error)
		if fmt.Sprint(texts) != "[1 2]" {
			t.Errorf("order = %v", texts)
		}
		var left int64
		uow.DB(ctx).Table("cqrs_parked").Count(&left)
		if left != 0 {
			t.Errorf("%d messages still parked", left)
		}
		return nil
	})
}

func TestIntegrationExecuteSharesCommits(t *testing.T) {
	t.Parallel()
	k := newStack(t, cqrs.ProcessorConfig{})
	cqrs.Handle(k.p, func(ctx context.Context, c place) (receipt, error) {
		if c.SKU == "hat" {
			return receipt{}, cqrs.Reject("sold_out", nil)
		}
		return receipt{c.Order}, uow.DB(ctx).Create(&line{Key: c.Order}).Error
	})
	var wg sync.WaitGroup
	before := k.work.Stats().Commits
	for i := range 200 {
		wg.Go(func() {
			c := place{Order: fmt.Sprint(i), SKU: "sock"}
			if i%2 == 0 {
				c.SKU = "hat"
			}
			_, err := cqrs.Execute(t.Context(), k.p, c)
			if (cqrs.AsRejection(err) != nil) != (i%2 == 0) {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if commits := k.work.Stats().Commits - before; commits > 60 {
		t.Errorf("%d commits for 200 callers", commits)
	}
	k.do(t, func(ctx context.Context) error {
		if n := count(uow.DB(ctx), "1=1"); n != 100 {
			t.Errorf("%d rows, want 100", n)
		}
		return nil
	})
}
