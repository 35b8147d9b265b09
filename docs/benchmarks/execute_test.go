package benchmarks_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/outbox/uow/pgxpipe"
)

// double is a command whose handler costs nothing.
type double struct {
	cqrs.Returns[int]
	N int
}

func newExecutor(b testing.TB, cfg cqrs.ProcessorConfig) *cqrs.Processor {
	b.Helper()
	catalog := cqrs.NewCatalog(
		cqrs.Command[double]{Name: "double"},
		cqrs.Command[placeOrder]{Name: "orders.place", Key: func(c placeOrder) string { return c.Order }},
	)
	s, err := cqrs.NewSender(catalog, &keeper{}, cqrs.SenderConfig{})
	must(b, err)
	p, err := cqrs.NewProcessor("orders", s, cfg)
	must(b, err)
	return p
}

func twice(_ context.Context, c double) (int, error) { return 2 * c.N, nil }

// BenchmarkExecute dispatches a command to its handler in this process, without a transaction.
func BenchmarkExecute(b *testing.B) {
	b.Run("plain", func(b *testing.B) {
		p, ctx := newExecutor(b, cqrs.ProcessorConfig{}), context.Background()
		cqrs.Handle(p, twice)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if got, err := cqrs.Execute(ctx, p, double{N: i}); got != 2*i || err != nil {
				b.Fatalf("double of %d is %d, %v", i, got, err)
			}
		}
	})
	b.Run("postgres", func(b *testing.B) {
		db := openPostgres(b)
		db.exec(b, "CREATE TABLE orders (id text PRIMARY KEY, units bigint NOT NULL)")
		n := scaled(b, 4096)
		var all []contender
		for _, writers := range []int{2, 4} {
			all = append(all,
				shared(db, n, uow.Config{Writers: writers}, "surge", func(ctx context.Context, c placeOrder) error {
					return uow.DB(ctx).Exec(insertOrder, c.Order, c.Units).Error
				}),
				shared(db, n, uow.Config{Writers: writers, Pipeline: pgxpipe.Pipeline{}}, "surge-queue", queueOrder))
		}
		for _, connections := range []int{8, 16, 32, 64} {
			all = append(all, apart(db, n/4, connections))
		}
		contest(b, "op/s", all...)
	})
}

// TestExecuteAllocations holds what dispatching without a transaction may allocate.
func TestExecuteAllocations(t *testing.T) {
	p, ctx := newExecutor(t, cqrs.ProcessorConfig{}), context.Background()
	cqrs.Handle(p, twice)
	n := testing.AllocsPerRun(1000, func() {
		if got, err := cqrs.Execute(ctx, p, double{N: 500}); got != 1000 || err != nil {
			t.Errorf("double of 500 is %d, %v", got, err)
		}
	})
	if n > 2 {
		t.Errorf("%v allocations, want at most 2", n)
	}
}

// shared has 64 callers execute a command with one INSERT, in transactions that they share.
func shared(
	db *database, n int, cfg uow.Config, side string, insert func(context.Context, placeOrder) error,
) contender {
	c := contender{name: fmt.Sprint(side, "-", cfg.Writers), side: side, against: []string{"alone"}}
	c.round = func(b *testing.B) (int, time.Duration) {
		b.Helper()
		unit, err := uow.New(db.DB, cfg)
		must(b, err)
		defer func() { b.ReportMetric(float64(unit.Stats().Parts)/float64(unit.Stats().Commits), "parts/commit") }()
		p := newExecutor(b, cqrs.ProcessorConfig{UnitOfWork: unit, InTransaction: uow.In})
		cqrs.Handle(p, func(ctx context.Context, c placeOrder) (struct{}, error) {
			return struct{}{}, insert(ctx, c)
		})
		return inserted(b, db, cfg.Writers+2, n, func(ctx context.Context, i int) error {
			_, err := cqrs.Execute(ctx, p, placeOrder{Order: id(i), Units: i})
			return err
		})
	}
	return c
}

// queueOrder is an INSERT that is sent with those of other parts.
func queueOrder(ctx context.Context, c placeOrder) error {
	return uow.Queue(ctx, insertOrder, c.Order, c.Units)
}

// apart is the same handler called with a transaction of its own for each command.
func apart(db *database, n, connections int) contender {
	name := fmt.Sprint("alone-", connections)
	return contender{name: name, side: "alone", round: func(b *testing.B) (int, time.Duration) {
		b.Helper()
		return inserted(b, db, connections, n, func(_ context.Context, i int) error {
			return db.Transaction(func(tx *gorm.DB) error {
				return tx.Exec(insertOrder, id(i), i).Error
			})
		})
	}}
}

// inserted has 64 callers insert n orders and looks whether all are there.
func inserted(
	b *testing.B, db *database, connections, n int, do func(ctx context.Context, i int) error,
) (int, time.Duration) {
	b.Helper()
	db.empty(b, "orders")
	db.connect(b, connections)
	then := db.cost(b)
	took := crowd(b, callers, n, func(i int) error {
		if err := do(context.Background(), i); err != nil {
			return errors.Join(fmt.Errorf("order %d", i), err)
		}
		return nil
	})
	db.since(b, then, n)
	db.wants(b, n, "SELECT count(*) FROM orders")
	return n, took
}
