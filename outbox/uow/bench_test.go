package uow_test

import (
	"context"
	"testing"

	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
)

// BenchmarkDo has 64 concurrent callers with two statements each, sharing commits or alone.
func BenchmarkDo(b *testing.B) {
	for _, d := range []struct {
		name string
		open func(testing.TB) *gorm.DB
	}{{"sqlite", openSQLite}, {"postgres", openPostgres}, {"mysql", openMySQL}} {
		for name, cfg := range map[string]uow.Config{
			"shared": {},
			"alone":  {MaxShare: 1, Writers: 8},
		} {
			b.Run(d.name+"/"+name, func(b *testing.B) {
				db := d.open(b)
				u := unit(b, db, cfg)
				b.SetParallelism(32)
				ids := make(chan int, 1024)
				go func() {
					for i := range b.N {
						ids <- i
					}
					close(ids)
				}()
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						id := <-ids
						err := u.Do(context.Background(), func(ctx context.Context) error {
							if err := insert(ctx, id); err != nil {
								return err
							}
							return uow.DB(ctx).Exec("UPDATE items SET n = n + 1 WHERE id = ?", id).Error
						})
						if err != nil {
							b.Error(err)
						}
					}
				})
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
				s := u.Stats()
				b.ReportMetric(float64(s.Parts)/float64(s.Commits), "parts/commit")
				b.ReportMetric(float64(s.Retries), "retries")
			})
		}
	}
}
