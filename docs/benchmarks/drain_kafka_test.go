package benchmarks_test

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// relayBatch is how many messages a relay publishes at once unless it is told otherwise.
const relayBatch = 1_000

// BenchmarkOutboxDrainKafka empties a prefilled PostgreSQL table into a topic of 4 partitions of a real broker, with
// acks=all. "raw-sarama" sends the same messages, from memory, in batches of the same size. Both have sent one message to
// the topic when the clock starts, so that they are connected and know where its partitions are.
func BenchmarkOutboxDrainKafka(b *testing.B) {
	k, t := openKafka(b), newTable(b, openPostgres(b))
	n := scaled(b, 20_000)
	raw := k.raw(b)
	contest(b, "msg/s",
		contender{name: "surge", round: func(b *testing.B) (int, time.Duration) {
			t.empty(b)
			t.fill(b, n)
			t.db.exec(b, "VACUUM ANALYZE outbox")
			to := &renamed{Publisher: k.bus.Publisher(), topic: k.topic(b, 4), sink: newSink(n)}
			must(b, to.Publisher.Publish(to.topic, messages(0, 1)...))
			took := t.relay(b, to, to.sink)
			to.sink.check(b, n, t.left)
			t.db.wants(b, 0, "SELECT count(*) FROM outbox")
			if got := k.records(b, to.topic); got != n+1 {
				b.Fatalf("the topic holds %d records, want %d", got, n+1)
			}
			must(b, to.Close())
			return n, took
		}},
		contender{name: "raw-sarama", round: k.published(raw, n, relayBatch)},
	)
}

// renamed publishes to a topic of the benchmark's own, and notes what was published.
type renamed struct {
	message.Publisher
	topic string
	sink  *sink
}

// Publish publishes and notes.
func (r *renamed) Publish(_ string, msgs ...*message.Message) error {
	if err := r.Publisher.Publish(r.topic, msgs...); err != nil {
		return err
	}
	return r.sink.Publish(r.topic, msgs...)
}
