package benchmarks_test

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox"
)

// BenchmarkOutboxDrain empties a prefilled PostgreSQL table of messages of 300 bytes and 9 headers into a publisher
// that does nothing. The clock runs from the start of the relay to the last message. Surge keeps the order of keys.
func BenchmarkOutboxDrain(b *testing.B) {
	n := scaled(b, 20_000)
	contest(b, "msg/s",
		contender{name: "surge", round: newTable(b, openPostgres(b)).round(n)},
		watermillDefault(b, n/10), watermillBest(b, n/2, 1_000), watermillBest(b, n/2, 5_000),
		oagudo(b, n, 5_000, false), oagudo(b, n, 10_000, false), oagudo(b, n, 5_000, true),
		riverDefault(b, n/50), riverBest(b, n/5, 1_000), riverBest(b, n/5, 5_000),
	)
}

// BenchmarkOutboxDrainHeld drains while a transaction holds a snapshot from before many rows were deleted, which
// therefore cannot be vacuumed: 300,000 with a SURGE_BENCH_SIZE of 5.
func BenchmarkOutboxDrainHeld(b *testing.B) {
	db := openPostgres(b)
	n, dead := scaled(b, 20_000), scaled(b, 60_000)
	t := newTable(b, db)
	contest(b, "msg/s",
		contender{name: "held", round: func(b *testing.B) (int, time.Duration) {
			t.empty(b)
			old := db.Begin()
			must(b, old.Exec("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").Error)
			must(b, old.Exec("SELECT count(*) FROM outbox").Error)
			defer old.Rollback()
			t.fill(b, dead)
			db.exec(b, "DELETE FROM outbox")
			t.end = 0
			return t.drain(b, n, n)
		}},
		contender{name: "undisturbed", round: t.round(n)},
	)
}

// BenchmarkOutboxDrainDeep drains the first messages of a long table and all of a short one: 50,000 rows, and twice as
// many for each unit of SURGE_BENCH_SIZE, so 5,000,000 with 50. What has left the long table is made up for at its end.
func BenchmarkOutboxDrainDeep(b *testing.B) {
	const n = 50_000
	deep := scaled(b, 100_000)
	long, short := newTable(b, openPostgres(b)), newTable(b, openPostgres(b))
	long.written, short.written = true, true
	contest(b, "msg/s",
		contender{name: "deep", round: func(b *testing.B) (int, time.Duration) { return long.drain(b, deep, n) }},
		contender{name: "shallow", round: short.round(n)},
	)
}

// A table is an outbox to be drained.
type table struct {
	db      *database
	box     *outbox.Outbox
	written bool // what filling it left in the server's memory is on disk before the clock starts

	end  int         // messages that were written to it since it was empty
	left map[int]int // and how many of each key have left
}

func newTable(b *testing.B, db *database) *table {
	b.Helper()
	must(b, outbox.Migrate(context.Background(), db.DB))
	box, err := outbox.New(db.DB, outbox.Config{})
	must(b, err)
	db.connect(b, 8)
	return &table{db: db, box: box, left: map[int]int{}}
}

// empty deletes all messages.
func (t *table) empty(b *testing.B) {
	b.Helper()
	t.db.empty(b, "outbox")
	t.end = 0
	clear(t.left)
}

// fill writes messages, numbered from 0 up, until so many have been written.
func (t *table) fill(b *testing.B, end int) {
	b.Helper()
	const group = 5_000
	for t.end < end {
		next := min(end, t.end+group)
		must(b, t.db.Transaction(func(tx *gorm.DB) error {
			return t.box.PublishTx(tx, topicName, messages(t.end, next)...)
		}))
		t.end = next
	}
}

// round fills an empty table with n messages and drains it.
func (t *table) round(n int) func(b *testing.B) (int, time.Duration) {
	return func(b *testing.B) (int, time.Duration) {
		t.empty(b)
		n, took := t.drain(b, n, n)
		t.db.wants(b, 0, "SELECT count(*) FROM outbox")
		return n, took
	}
}

// drain fills the table with messages up to a depth and takes the time of the first n.
func (t *table) drain(b *testing.B, depth, n int) (int, time.Duration) {
	b.Helper()
	gone := 0
	for _, n := range t.left {
		gone += n
	}
	t.fill(b, gone+depth)
	t.db.exec(b, "VACUUM ANALYZE outbox")
	if t.written {
		t.db.exec(b, "CHECKPOINT")
	}
	to := newSink(n)
	then := t.db.cost(b)
	took := t.relay(b, to, to)
	t.db.since(b, then, n)
	to.check(b, t.end, t.left)
	return n, took
}

// relay publishes until the sink is full, and stops.
func (t *table) relay(b *testing.B, to message.Publisher, s *sink) time.Duration {
	b.Helper()
	relay, err := outbox.NewRelay(t.box, to, outbox.RelayConfig{})
	must(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- relay.Run(ctx) }()
	s.await(b)
	took := time.Since(began)
	cancel()
	must(b, <-ended)
	return took
}
