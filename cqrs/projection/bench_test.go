package projection_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/surge-go/surge/cqrs/projection"
	"github.com/surge-go/surge/outbox/uow"
)

// BenchmarkApply measures from the bus to the commit: decoding, claiming in the inbox, applying and the checkpoint,
// two partitions. by-event writes one row per event; folded adds a batch up first and writes each key once.
func BenchmarkApply(b *testing.B) {
	for db, open := range map[string]func(testing.TB) *gorm.DB{"sqlite": openSQLite, "postgres": openPostgres} {
		for _, size := range []int{64, 256} {
			for name, apply := range map[string]func(context.Context, []Noted) error{"by-event": count, "folded": folded} {
				b.Run(fmt.Sprintf("%s/batch=%d/%s", db, size, name), func(b *testing.B) {
					benchmark(b, newWorld(b, open(b)), size, apply)
				})
			}
		}
	}
}

func count(ctx context.Context, events []Noted) error {
	for _, e := range events {
		if err := upsert(ctx, e.Key, 1); err != nil {
			return err
		}
	}
	return nil
}

func folded(ctx context.Context, events []Noted) error {
	sums := map[string]int{}
	for _, e := range events {
		sums[e.Key]++
	}
	for _, key := range slices.Sorted(maps.Keys(sums)) {
		if err := upsert(ctx, key, sums[key]); err != nil {
			return err
		}
	}
	return nil
}

func upsert(ctx context.Context, key string, n int) error {
	table := projection.Table(ctx, "counts")
	return uow.DB(ctx).Exec("INSERT INTO "+table+" VALUES (?, ?)"+
		" ON CONFLICT (k) DO UPDATE SET n = "+table+".n + excluded.n", key, n).Error
}

func benchmark(b *testing.B, w *world, size int, apply func(context.Context, []Noted) error) {
	cfg := w.config()
	cfg.MaxBatch, cfg.Logger = size, nil
	cfg.Create = func(ctx context.Context) error {
		return w.db.WithContext(ctx).Exec("CREATE TABLE IF NOT EXISTS " + projection.Table(ctx, "counts") +
			" (k VARCHAR(40) PRIMARY KEY, n BIGINT NOT NULL)").Error
	}
	keys := make([]string, 100)
	for i := range keys {
		keys[i] = fmt.Sprint("key-", i)
	}
	w.publish(1, b.N, keys...)
	p, err := projection.New("notes", w.catalog, w.work, w.store, w.bus, cfg)
	must(b, err)
	projection.On(p, apply)
	b.ReportAllocs()
	b.ResetTimer()
	start := time.Now()
	r := w.run(p)
	edges, err := w.bus.Latest(b.Context(), topic)
	must(b, err)
	for partition, next := range edges {
		if next > 0 {
			must(b, p.Wait(b.Context(), projection.At(topic, partition, next-1), 10*time.Minute))
		}
	}
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "events/s")
	b.StopTimer()
	must(b, r.stop())
}
