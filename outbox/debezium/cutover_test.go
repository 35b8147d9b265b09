package debezium_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

const (
	writers = 4
	keys    = 6
)

// load is writers that count up keys in overlapping units of work, until they are told to end. One of five is undone.
func (s *service) load(topic string) (end func()) {
	s.t.Helper()
	must(s.t, s.db.Exec("CREATE TABLE counters (k int PRIMARY KEY, n int NOT NULL)").Error)
	must(s.t, s.db.Exec("INSERT INTO counters SELECT k, 0 FROM generate_series(0, ?) AS k", keys-1).Error)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 3))
			for ctx.Err() == nil {
				if err := s.count(topic, rnd.IntN(keys), rnd.IntN(5) == 0); err != nil {
					s.t.Error(err)
					return
				}
			}
		})
	}
	end = sync.OnceFunc(func() { cancel(); all.Wait() })
	s.t.Cleanup(end)
	return end
}

// count increments a key's counter and publishes its value.
func (s *service) count(topic string, key int, undone bool) error {
	err := s.unit.Do(context.Background(), func(ctx context.Context) error {
		n, err := next(uow.DB(ctx), key)
		if err != nil {
			return err
		}
		id := fmt.Sprintf("%s/%d/%d", topic, key, n)
		if undone {
			id = "undone"
		}
		sp := specimen{key: strconv.Itoa(key), payload: []byte(strconv.Itoa(n))}
		if err := s.publish(ctx, topic, id, sp); err != nil || !undone {
			return err
		}
		return errUndone
	})
	if undone && errors.Is(err, errUndone) {
		return nil
	}
	return err
}

func next(tx *gorm.DB, key int) (n int, err error) {
	err = tx.Raw("UPDATE counters SET n = n + 1 WHERE k = ? RETURNING n", key).Scan(&n).Error
	return n, err
}

// TestRule17_CutOverAndBack goes from a relay to Debezium, back, and over again, while writers go on, by the steps
// of docs/debezium.md.
func TestRule17_CutOverAndBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	topic := "surgetest." + random()
	c.topics(4, topic)
	s := newService(t)
	relay := s.relay(c)
	end := s.load(topic)
	grown := c.growth(topic)

	grown("by the relay")
	for range 2 {
		eventually(t, "nothing is being retried", func() bool { return s.depth("outbox_retry") == 0 })
		relay()
		stuck := s.depth("outbox")
		c.start(s)
		_, stop := s.pruner()
		grown("by Debezium")
		t.Logf("%d rows were left to the snapshot", stuck)
		s.schedule(topic)
		p, quit := s.pruner()
		eventually(t, "a scheduled message leaves", func() bool { return s.depth("outbox_scheduled") == 0 })
		must(t, p.Drain(t.Context()))
		quit()
		stop()
		c.stop(s)
		relay = s.relay(c)
		grown("by the relay again")
	}
	end()
	eventually(t, "the table is empty", func() bool { return s.depth("outbox") == 0 })
	relay()
	s.complete(c.read(topic, nil, 1))
}

// relay starts a relay.
func (s *service) relay(c *cluster) (stop func()) {
	s.t.Helper()
	relay, err := outbox.NewRelay(s.box, c.bus.Publisher(), outbox.RelayConfig{UnitOfWork: s.unit})
	must(s.t, err)
	return s.run(relay.Run)
}

// growth returns a function that waits until a topic has some more records.
func (c *cluster) growth(topic string) func(what string) {
	return func(what string) {
		c.t.Helper()
		before := total(c.ends(topic))
		eventually(c.t, "records are written "+what, func() bool { return total(c.ends(topic)) > before+100 })
	}
}

func total(ends map[int32]int64) (n int64) {
	for _, end := range ends {
		n += end
	}
	return n
}

// schedule publishes a message that is due soon.
func (s *service) schedule(topic string) {
	s.t.Helper()
	must(s.t, s.unit.Do(s.t.Context(), func(ctx context.Context) error {
		at := time.Now().Add(100 * time.Millisecond).Format(time.RFC3339Nano)
		return s.publish(ctx, topic, "scheduled-"+random(), specimen{metadata: message.Metadata{outbox.HeaderDeliverAt: at}})
	}))
}

// complete checks that each key's numbers are there from 1 to its counter, in order at their first appearances, that
// nothing undone is, and the scheduled messages are.
func (s *service) complete(list []*sarama.ConsumerMessage) {
	s.t.Helper()
	seen, last, again, scheduled := map[string]bool{}, map[string]int{}, 0, 0
	for _, rec := range list {
		id := header(rec, "ce_id")
		switch {
		case seen[id]:
			again++
			continue
		case id == "undone":
			s.t.Error("a message of a unit of work that was undone")
		case len(rec.Key) == 0:
			scheduled++
		default:
			if n, err := strconv.Atoi(string(rec.Value)); err != nil || n != last[string(rec.Key)]+1 {
				s.t.Errorf("key %s: %s after %d", rec.Key, rec.Value, last[string(rec.Key)])
			}
			last[string(rec.Key)]++
		}
		seen[id] = true
	}
	for k := range keys {
		var n int
		must(s.t, s.db.Raw("SELECT n FROM counters WHERE k = ?", k).Scan(&n).Error)
		if last[strconv.Itoa(k)] != n {
			s.t.Errorf("key %d: %d messages, %d were committed", k, last[strconv.Itoa(k)], n)
		}
	}
	if scheduled != 2 {
		s.t.Errorf("%d scheduled messages, want 2", scheduled)
	}
	s.t.Logf("%d records, %d of them again", len(list), again)
}
