package saga_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/host"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga/internal/fulfil"
)

// BenchmarkOrders runs whole order sagas through two services, their databases and the bus: 7 steps, 15 messages and
// as many inbox rows for each. SURGE_BENCH_DB chooses postgres or mysql.
func BenchmarkOrders(b *testing.B) {
	dialect := os.Getenv("SURGE_BENCH_DB")
	if dialect == "" {
		dialect = "sqlite"
	}
	s := newShop(b, dialect, shopConfig{host: host.Config{
		Processor:  cqrs.ProcessorConfig{Lanes: 4, MaxBatch: 256, Linger: 2 * time.Millisecond},
		UnitOfWork: uow.Config{},
	}})
	s.run()
	events := make([]any, b.N)
	for i := range events {
		events[i] = fulfil.Placed{OrderID: fmt.Sprintf("order-%d", i), SKU: "hat", Cents: 100}
	}
	b.ResetTimer()
	for from := 0; from < b.N; from += 500 {
		s.publish(events[from:min(b.N, from+500)]...)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var done int
		must(b, s.shipping.Work.Do(b.Context(), func(ctx context.Context) error {
			return uow.DB(ctx).Raw("SELECT count(*) FROM saga_instances WHERE status = 'completed'").Scan(&done).Error
		}))
		if done == b.N {
			break
		}
		<-tick.C
	}
	b.StopTimer()
	b.Logf("shipping %+v world %+v", s.shipping.Work.Stats(), s.world.Work.Stats())
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sagas/s")
}
