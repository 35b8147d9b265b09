package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/glebarez/sqlite"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/outboxtest"
	"github.com/surge-go/surge/outbox/uow"
	"pgregory.net/rapid"
)

// moody is a publisher that fails at random, takes half of a batch, and refuses what is bad, until it is calmed.
type moody struct {
	scripted
	calm atomic.Bool
	mood sync.Mutex
	rnd  *rand.Rand
	fail int // of 100
}

func (m *moody) Publish(_ string, msgs ...*message.Message) error {
	m.mood.Lock()
	roll, part := m.rnd.IntN(100), m.rnd.IntN(len(msgs)+1)
	m.mood.Unlock()
	if !m.calm.Load() && roll < m.fail {
		m.take(msgs[:part]...)
		return errors.New("moody")
	}
	for _, msg := range msgs {
		if strings.HasPrefix(msg.UUID, "bad") {
			return errors.New("bad")
		}
	}
	m.take(msgs...)
	return nil
}

// Whatever relays, publishers and leases do, each message of a committed part leaves, in order for its key, or is
// dead; and no other does.
func TestRelayAtRandom(t *testing.T) {
	t.Parallel()
	db := outboxtest.Open(t, sqlite.Open(":memory:"))
	box, unit := newOutbox(t, db)
	rapid.Check(t, func(rt *rapid.T) {
		s := &scenario{
			T: rt, box: box, unit: unit,
			to: &moody{
				rnd:  rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0)),
				fail: rapid.SampledFrom([]int{0, 20, 60}).Draw(rt, "failures per cent"),
			},
			poison: rapid.SampledFrom([]outbox.Poison{outbox.BlockKey, outbox.BlockShard}).Draw(rt, "poison"),
			want:   map[string][]string{},
		}
		defer s.close()
		s.start()
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			switch rapid.IntRange(0, 11).Draw(rt, "step") {
			case 0:
				s.start()
			case 1:
				s.stop()
			case 2:
				s.steal()
			case 3:
				s.pause()
			case 4:
				s.resume()
			default:
				s.publish()
			}
		}
		s.finish()
	})
}

// running is a relay that runs until it is stopped.
type running struct {
	*outbox.Relay
	stop func()
}

type scenario struct {
	*rapid.T
	box    *outbox.Outbox
	unit   *uow.UnitOfWork
	to     *moody
	poison outbox.Poison
	relays []running
	want   map[string][]string
	n      int
}

func (s *scenario) start() {
	if len(s.relays) == 3 {
		return
	}
	relay, err := outbox.NewRelay(s.box, s.to, outbox.RelayConfig{
		UnitOfWork: s.unit, Lease: 600 * time.Millisecond, Backoff: time.Millisecond, MaxBackoff: 4 * time.Millisecond,
		Batch: rapid.IntRange(1, 8).Draw(s.T, "batch"), Buffer: rapid.IntRange(1, 10).Draw(s.T, "buffer"), Attempts: 3,
		Concurrency: rapid.SampledFrom([]int{1, 2, 4, outbox.Shards}).Draw(s.T, "concurrency"),
		Poison:      func(string) outbox.Poison { return s.poison },
	})
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = relay.Run(ctx) }()
	s.relays = append(s.relays, running{relay, func() { cancel(); <-ended }})
}

func (s *scenario) stop() {
	if len(s.relays) > 0 {
		s.relays[0].stop()
		s.relays = s.relays[1:]
	}
}

func (s *scenario) pause() {
	for _, r := range s.relays {
		if rapid.Bool().Draw(s.T, "pause") {
			r.Pause()
		}
	}
}

func (s *scenario) resume() {
	for _, r := range s.relays {
		r.Resume()
	}
}

func (s *scenario) close() {
	for len(s.relays) > 0 {
		s.stop()
	}
}

// steal takes some leases away from whoever has them, and lets them expire at once.
func (s *scenario) steal() {
	shards := rapid.IntRange(1, outbox.Shards).Draw(s.T, "shards stolen")
	err := s.unit.Do(context.Background(), func(ctx context.Context) error {
		return uow.DB(ctx).Exec("UPDATE outbox_lease SET owner = 'thief', epoch = epoch + 1, expires_at = 0 WHERE shard < ?",
			shards).Error
	})
	if err != nil {
		s.Fatal(err)
	}
}

func (s *scenario) publish() {
	key, undone := strconv.Itoa(rapid.IntRange(0, 4).Draw(s.T, "key")), rapid.IntRange(0, 5).Draw(s.T, "undone") == 0
	ids := make([]string, rapid.IntRange(1, 15).Draw(s.T, "messages"))
	for i := range ids {
		s.n++
		kind := "good"
		if rapid.IntRange(0, 30).Draw(s.T, "bad") == 30 {
			kind = "bad"
		}
		ids[i] = fmt.Sprintf("%s-%s-%d", kind, key, s.n)
	}
	err := s.unit.Do(context.Background(), func(ctx context.Context) error {
		for _, id := range ids {
			m := message.NewMessage(id, nil)
			m.Metadata.Set(outbox.HeaderKey, key)
			m.SetContext(ctx)
			if err := s.box.Publish(topicOf(key), m); err != nil {
				return err
			}
		}
		if undone {
			return context.Canceled
		}
		return nil
	})
	if undone != (err != nil) {
		s.Fatal(err)
	}
	if !undone {
		s.want[key] = append(s.want[key], ids...)
	}
}

// topicOf returns the topic of the messages of a key.
func topicOf(key string) string {
	if key == "0" || key == "2" {
		return "even"
	}
	return "odd"
}

// finish lets everything leave, and compares.
func (s *scenario) finish() {
	s.to.calm.Store(true)
	s.resume()
	s.start()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for still, patience, last := 0, 4, int64(0); ; still++ {
		<-tick.C
		stats, err := s.box.Stats(context.Background())
		if err != nil {
			s.Fatal(err)
		}
		if stats.Depth+stats.Retrying == 0 {
			break
		}
		if time.Now().After(deadline) {
			s.Fatalf("%d messages are left, %d retrying", stats.Depth, stats.Retrying)
		}
		if stats.Depth != last {
			still, last = 0, stats.Depth
		}
		if still == patience { // ever more seldom, or a slow relay would never be done
			s.proof()
			still, patience = 0, patience+1
		}
	}
	s.close()
	dead := map[string]bool{}
	for m, err := range s.box.Dead(context.Background(), outbox.DeadFilter{}) {
		if err != nil {
			s.Fatal(err)
		}
		dead[m.ID] = true
	}
	why := outbox.Action{Actor: "test", Reason: "the next one begins"}
	if _, err := s.box.Discard(context.Background(), outbox.DeadFilter{}, why); err != nil {
		s.Fatal(err)
	}
	s.compare(dead)
}

// proof publishes messages of no key, which show each relay that the publisher takes messages and others are to blame.
func (s *scenario) proof() {
	err := s.unit.Do(context.Background(), func(ctx context.Context) error {
		for range 16 {
			s.n++
			key := strconv.Itoa(s.n % 2)
			m := message.NewMessage("proof-"+strconv.Itoa(s.n), nil) // any shard
			m.SetContext(ctx)
			if err := s.box.Publish(topicOf(key), m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
}

func (s *scenario) compare(dead map[string]bool) {
	got, seen := map[string][]string{}, map[string]bool{}
	for _, id := range s.to.ids() {
		if parts := strings.Split(id, "-"); len(parts) == 3 && !seen[id] {
			seen[id] = true
			got[parts[1]] = append(got[parts[1]], id)
		}
	}
	for key, ids := range s.want {
		var alive []string
		for _, id := range ids {
			if !dead[id] || seen[id] {
				alive = append(alive, id)
			}
		}
		if fmt.Sprint(alive) != fmt.Sprint(got[key]) {
			s.Errorf("key %s:\n got %v\nwant %v\ndead %v", key, got[key], alive, dead)
		}
		delete(got, key)
	}
	if len(got) != 0 {
		s.Errorf("never committed: %v", got)
	}
}
