package outbox_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
)

// counter is a publisher that does nothing but count.
type counter struct{ n atomic.Int64 }

func (c *counter) Publish(_ string, msgs ...*message.Message) error {
	c.n.Add(int64(len(msgs)))
	return nil
}

func (c *counter) Close() error { return nil }

// BenchmarkRelayDrain measures how fast a relay empties a table of 300-byte messages with 10 headers, with a
// publisher that does nothing: reading, decoding, publishing in order and deleting.
func BenchmarkRelayDrain(b *testing.B) {
	for _, name := range []string{"sqlite", "postgres", "mysql"} {
		b.Run(name, func(b *testing.B) {
			db := databases[name](b)
			box, unit := newOutbox(b, db)
			const rows = 50_000
			var spent time.Duration
			for range b.N {
				b.StopTimer()
				fill(b, box, unit, rows)
				to := &counter{}
				relay := newRelay(b, box, to, outbox.RelayConfig{UnitOfWork: unit})
				ctx, cancel := context.WithCancel(context.Background())
				var all sync.WaitGroup
				b.StartTimer()
				began := time.Now()
				all.Go(func() {
					if err := relay.Run(ctx); err != nil {
						b.Error(err)
					}
				})
				if err := relay.Drain(ctx); err != nil {
					b.Fatal(err)
				}
				spent += time.Since(began)
				b.StopTimer()
				cancel()
				all.Wait()
				if n := to.n.Load(); n != rows {
					b.Fatalf("published %d of %d", n, rows)
				}
			}
			b.ReportMetric(float64(rows)*float64(b.N)/spent.Seconds(), "msg/s")
		})
	}
}

// fill publishes n messages of 1,000 keys and 4 topics.
func fill(tb testing.TB, box *outbox.Outbox, unit *uow.UnitOfWork, n int) {
	tb.Helper()
	const perUnit = 1_000
	payload := make([]byte, 300)
	for from := 0; from < n; from += perUnit {
		err := unit.Do(context.Background(), func(ctx context.Context) error {
			for i := from; i < min(n, from+perUnit); i++ {
				m := message.NewMessage(fmt.Sprintf("0198c0de-0000-7000-8000-%012d", i), payload)
				for h := range 9 {
					m.Metadata.Set(fmt.Sprintf("ce_header%d", h), "0198c0de-0000-7000-8000-000000000000")
				}
				m.Metadata.Set(outbox.HeaderKey, fmt.Sprintf("order-%d", i%1000))
				m.SetContext(ctx)
				if err := box.Publish(fmt.Sprintf("topic-%d", i%4), m); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
}
