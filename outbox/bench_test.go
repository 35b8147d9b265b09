package outbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
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
			drain(b, box, unit, rows, func() { fill(b, box, unit, rows) })
		})
	}
}

// BenchmarkRelayDrainHeld does the same on PostgreSQL, undisturbed and while another session holds an old snapshot and
// 300,000 dead rows, which therefore cannot be removed, stand at the table's beginning.
func BenchmarkRelayDrainHeld(b *testing.B) {
	const rows, dead = 200_000, 300_000
	for _, held := range []bool{false, true} {
		b.Run(fmt.Sprintf("held=%t", held), func(b *testing.B) {
			db := openPostgres(b)
			box, unit := newOutbox(b, db)
			drain(b, box, unit, rows, func() {
				if held {
					generate(b, db, dead)
					hold(b, db)
					if err := db.Exec("DELETE FROM outbox").Error; err != nil {
						b.Fatal(err)
					}
				}
				generate(b, db, rows)
			})
		})
	}
}

// BenchmarkRelayDrainDeep measures how fast the first 50,000 messages leave, on PostgreSQL, when so many wait and when
// far more do: SURGE_BENCH_ROWS, or half a million.
func BenchmarkRelayDrainDeep(b *testing.B) {
	const rows = 50_000
	deep := 500_000
	if n, err := strconv.Atoi(os.Getenv("SURGE_BENCH_ROWS")); err == nil {
		deep = n
	}
	for _, waiting := range []int{rows, deep} {
		b.Run(fmt.Sprintf("waiting=%d", waiting), func(b *testing.B) {
			db := openPostgres(b)
			box, unit := newOutbox(b, db)
			drain(b, box, unit, rows, func() {
				if err := db.Exec("TRUNCATE outbox").Error; err != nil {
					b.Fatal(err)
				}
				generate(b, db, waiting)
			})
		})
	}
}

// drain measures how long a relay takes, from its start on, for n messages to leave the table.
func drain(b *testing.B, box *outbox.Outbox, unit *uow.UnitOfWork, n int64, fill func()) {
	b.Helper()
	var spent time.Duration
	for range b.N {
		b.StopTimer()
		fill()
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
		if err := outbox.DrainSome(ctx, relay, n); err != nil {
			b.Fatal(err)
		}
		spent += time.Since(began)
		b.StopTimer()
		cancel()
		all.Wait()
		if got := to.n.Load(); got < n {
			b.Fatalf("published %d of %d", got, n)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/spent.Seconds(), "msg/s")
}

// generate inserts n messages like those of fill, in the server.
func generate(b *testing.B, db *gorm.DB, n int) {
	b.Helper()
	headers := ""
	for i := range 9 {
		headers += fmt.Sprintf(`"ce_header%d":"0198c0de-0000-7000-8000-000000000000",`, i)
	}
	err := db.Exec(`INSERT INTO outbox (shard, id, topic, aggregateid, type, headers, payload)
		SELECT i % 1000 % 64, '0198c0de-0000-7000-8000-' || lpad(i::text, 12, '0'), 'topic-' || i % 4, 'order-' || i % 1000,
			'', ? || '"ce_partitionkey":"order-' || i % 1000 || '"}', decode(repeat('00', 300), 'hex')
		FROM generate_series(1, ?) AS i`, "{"+headers, n).Error
	if err != nil {
		b.Fatal(err)
	}
}

// hold opens a transaction that keeps what it sees until the benchmark ends.
func hold(b *testing.B, db *gorm.DB) {
	b.Helper()
	tx := db.Begin(&sql.TxOptions{Isolation: sql.LevelRepeatableRead})
	if err := tx.Exec("SELECT count(*) FROM outbox_meta").Error; err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { tx.Rollback() })
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
