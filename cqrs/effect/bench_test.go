package effect_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/glebarez/sqlite"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/effect"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

// BenchmarkEffects records intents, 64 callers at a time, calls a provider that takes a millisecond, and settles, on
// SQLite with synchronous=FULL. One op is one effect, from the command to the committed result.
func BenchmarkEffects(b *testing.B) {
	dsn := filepath.Join(b.TempDir(), "bench.db") + "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)"
	db, err := gorm.Open(sqlite.Open(dsn), &gorm.Config{Logger: logger.Discard})
	fatal(b, err)
	fatal(b, gormstore.Migrate(b.Context(), db))
	work, err := uow.New(db, uow.Config{})
	fatal(b, err)
	store, err := gormstore.NewEffects(work)
	fatal(b, err)
	var settled atomic.Int64
	all := make(chan struct{})
	reply := func(ctx context.Context, _ cqrs.Envelope, _ any, err error) error {
		return uow.AfterCommit(ctx, func() {
			if settled.Add(1) == int64(b.N) {
				close(all)
			}
		})
	}
	r := effect.NewWith(reply, store, effect.Config{})
	h := effect.Handler(r, effect.Effect[pay, receipt, charge, approval]{
		Name:   "pay",
		Intent: func(_ context.Context, c pay) (string, charge, error) { return "key-" + c.ID, charge{c.Cents}, nil },
		Call: func(context.Context, string, charge) (approval, error) {
			<-time.After(time.Millisecond)
			return approval{"ref"}, nil
		},
		Settle: func(_ context.Context, _ pay, _ charge, o approval) (receipt, error) { return receipt(o), nil },
	})
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	running.Go(func() { fatal(b, r.Run(ctx)) })
	before := work.Stats()
	b.ResetTimer()
	var next atomic.Int64
	var callers sync.WaitGroup
	for range 64 {
		callers.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				err := work.Do(ctx, func(ctx context.Context) error {
					if _, err := h(ctx, pay{ID: fmt.Sprint(i), Cents: 5}); !errors.Is(err, cqrs.ErrDeferred) {
						return err
					}
					return nil
				})
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	callers.Wait()
	<-all
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "effects/s")
	b.ReportMetric(float64(work.Stats().Commits-before.Commits)/float64(b.N), "commits/op")
	cancel()
	running.Wait()
	pool, err := db.DB()
	fatal(b, err)
	fatal(b, pool.Close())
}

func fatal(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
