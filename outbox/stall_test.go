package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
)

// second runs another relay on the fixture's database until the test ends.
func (f *fixture) second(t *testing.T, to message.Publisher, cfg outbox.RelayConfig) *outbox.Relay {
	t.Helper()
	cfg.UnitOfWork = f.unit
	relay := newRelay(t, f.box, to, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := relay.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); all.Wait() })
	return relay
}

func (f *fixture) exec(t *testing.T, query string, args ...any) {
	t.Helper()
	err := f.unit.Do(context.Background(), func(ctx context.Context) error {
		return uow.DB(ctx).Exec(query, args...).Error
	})
	if err != nil {
		t.Fatal(err)
	}
}

// renewed waits until the relay has committed another renewal of its leases, so what an earlier one found is known.
func (f *fixture) renewed(t *testing.T) {
	t.Helper()
	last := func() (at int64) {
		if err := f.db.Raw("SELECT max(expires_at) FROM outbox_member").Row().Scan(&at); err != nil {
			t.Fatal(err)
		}
		return at
	}
	before := last()
	within(t, "the leases are renewed", func() bool { return last() > before })
}

// keys returns n keys.
func keys(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprint("k", i))
	}
	return list
}

// A topic whose Publish hangs must not hold up the other topics of the shards that are to be handed over.
func TestHangDoesNotHoldUpAHandOver(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	to := &scripted{script: func(topic string, _ []*message.Message) error {
		if topic == "slow" {
			<-gate
		}
		return nil
	}}
	cfg := outbox.RelayConfig{Lease: 600 * time.Millisecond}
	f := run(t, to, cfg)
	defer close(gate)
	f.relay.Pause()
	for _, k := range keys(200) {
		f.publish(t, "slow", k, "slow-"+k)
	}
	f.relay.Resume()
	within(t, "it hangs", func() bool { return f.relay.Publishing() > 0 })
	f.second(t, to, cfg)
	within(t, "it has its share", func() bool {
		var n int64
		err := f.db.Raw("SELECT count(*) FROM outbox_lease GROUP BY owner ORDER BY 1 LIMIT 1").Row().Scan(&n)
		return err == nil && n == outbox.Shards/2
	})
	for _, k := range keys(200) {
		f.publish(t, "fast", k, "fast-"+k)
	}
	within(t, "the other topic's messages leave", func() bool {
		n := 0
		for _, id := range to.ids() {
			if id[:4] == "fast" {
				n++
			}
		}
		return n >= 200
	})
}

// A topic that hangs must not keep the retry table from another one.
func TestHangDoesNotHoldUpRetries(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	var refuse, hang atomic.Bool
	refuse.Store(true)
	to := &scripted{script: func(topic string, _ []*message.Message) error {
		switch {
		case topic == "slow" && hang.Load():
			<-gate
		case refuse.Load():
			return refusedError{}
		}
		return nil
	}}
	f := run(t, to, outbox.RelayConfig{Attempts: 1000})
	defer close(gate)
	for _, k := range keys(120) {
		f.publish(t, "slow", k, "slow-"+k)
	}
	retrying := func(n int64) bool {
		s, err := f.box.Stats(context.Background())
		return err == nil && s.Retrying == n
	}
	within(t, "all are refused", func() bool { return retrying(120) })
	hang.Store(true)
	f.publish(t, "fast", "k", "fast")
	within(t, "it is refused too", func() bool { return retrying(121) })
	refuse.Store(false)
	within(t, "it leaves", func() bool { return slices.Contains(to.ids(), "fast") })
}

// A failing topic whose messages went to another relay does not fail any more.
func TestFailureEndsWithTheQueue(t *testing.T) {
	t.Parallel()
	to := &scripted{script: func(string, []*message.Message) error { return errors.New("down") }}
	f := run(t, to, outbox.RelayConfig{Lease: 600 * time.Millisecond, StuckAfter: 50 * time.Millisecond})
	f.publish(t, "topic", "k", "1")
	within(t, "it complains", func() bool { return f.relay.Healthy(context.Background()) != nil })
	f.exec(t, "UPDATE outbox_lease SET owner = 'other#1', epoch = epoch + 1, expires_at = 9000000000000000")
	f.exec(t, "DELETE FROM outbox")
	within(t, "it is well", func() bool { return f.relay.Healthy(context.Background()) == nil })
}

// A message that is refused after its shard was lost must not bar the shard when it is won back.
func TestShardLostDuringARefusalIsNotBarred(t *testing.T) {
	t.Parallel()
	entered, gate := make(chan struct{}), make(chan struct{})
	var calls atomic.Int32
	to := &scripted{}
	to.script = func(string, []*message.Message) error {
		switch calls.Add(1) {
		case 1:
			return errors.New("down")
		case 2:
			close(entered)
			<-gate
			return refusedError{}
		}
		return nil
	}
	f := run(t, to, outbox.RelayConfig{
		Lease: 600 * time.Millisecond, Poison: func(string) outbox.Poison { return outbox.BlockShard },
	})
	f.publish(t, "topic", "k", "1")
	<-entered
	f.exec(t, "UPDATE outbox_lease SET owner = 'thief#1', epoch = epoch + 1, expires_at = 9000000000000000")
	f.renewed(t)
	f.renewed(t)
	close(gate)
	within(t, "the refusal is noted", func() bool { return f.relay.Publishing() == 0 })
	f.exec(t, "UPDATE outbox_lease SET expires_at = 0")
	f.drain(t)
}

// A relay takes over from its own name only, whatever is in it: who is taken for dead learns of it at its next renewal.
func TestOwnerNamesMayHoldAnything(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	to := &scripted{script: func(string, []*message.Message) error { <-gate; return nil }}
	f := run(t, to, outbox.RelayConfig{Owner: "service#1", Lease: time.Hour})
	defer close(gate)
	f.publish(t, "topic", "k", "1")
	within(t, "it has leases", func() bool { return f.relay.Publishing() == 1 })
	f.second(t, &scripted{}, outbox.RelayConfig{Owner: "service"})
	within(t, "the second is there", func() bool {
		var n int64
		err := f.db.Raw("SELECT count(*) FROM outbox_member WHERE owner LIKE 'service#%'").Row().Scan(&n)
		return err == nil && n == 2
	})
}

// One message of another key is proof enough that the publisher works, whenever it comes.
func TestOneSuccessShowsWhoIsToBlame(t *testing.T) {
	t.Parallel()
	var failures atomic.Int32
	to := &scripted{script: func(_ string, msgs []*message.Message) error {
		if slices.ContainsFunc(msgs, func(m *message.Message) bool { return m.UUID == "bad" }) {
			failures.Add(1)
			return errors.New("refused")
		}
		return nil
	}}
	f := run(t, to, outbox.RelayConfig{Backoff: 20 * time.Millisecond, MaxBackoff: 20 * time.Millisecond})
	f.publish(t, "topic", "k", "bad", "behind")
	within(t, "it fails", func() bool { return failures.Load() > 4 })
	f.publish(t, "topic", "other", "good")
	within(t, "the message and what is behind it are set aside", func() bool {
		s, err := f.box.Stats(context.Background())
		return err == nil && s.Retrying == 2 && s.Depth == 0
	})
}

// A message that was read under a lease that was lost since is not moved, even if the shard was won back: nothing is
// known any more of what it was to wait behind, so nobody would try it again. It stays where it is read again.
func TestMoveOfAnEarlierLeaseIsLeft(t *testing.T) {
	t.Parallel()
	f := &fixture{db: openSQLite(t)}
	f.box, f.unit = newOutbox(t, f.db) // and no relay of its own, which would take the lease
	f.publish(t, "topic", "k", "1")
	for _, c := range []struct {
		read    int64
		pending bool
		left    int64
	}{{7, true, 1}, {8, false, 0}} {
		pending, err := outbox.StoreMove(context.Background(), f.box, 1, outbox.ShardOf("k"), c.read, 8)
		s, serr := f.box.Stats(context.Background())
		if err != nil || serr != nil || pending != c.pending || s.Depth != c.left || s.Retrying != 1-c.left {
			t.Errorf("read under %d: pending %v, depth %d, retrying %d, %v, %v", c.read, pending, s.Depth, s.Retrying, err, serr)
		}
	}
}

// A delete that gets no answer does not keep the relay from ending.
func TestRunEndsThoughADeleteHangs(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	f := serve(t, db, &scripted{}, outbox.RelayConfig{Grace: 200 * time.Millisecond})
	f.relay.Pause()
	f.publish(t, "topic", "k", "1")
	tx := db.Begin()
	if err := tx.Exec("SELECT seq FROM outbox FOR UPDATE").Error; err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	f.relay.Resume()
	within(t, "it is published", func() bool { return f.relay.Published() == 1 })
	ended := make(chan error, 1)
	go func() { ended <- f.stop() }()
	within(t, "Run returns", func() bool { return len(ended) == 1 })
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if s, err := f.box.Stats(context.Background()); err != nil || s.Depth != 1 {
		t.Errorf("depth %d, %v", s.Depth, err)
	}
}

// Messages that are retried and fail slowly take turns with those of the topic's other keys.
func TestSlowTrialsTakeTurns(t *testing.T) {
	t.Parallel()
	var f *fixture
	var during atomic.Bool // messages come while one is tried
	var n int
	var calls []string
	to := &scripted{}
	to.script = func(_ string, msgs []*message.Message) error { // by one worker
		if !slices.ContainsFunc(msgs, func(m *message.Message) bool { return m.Metadata.Get(outbox.HeaderKey) != "good" }) {
			calls = append(calls, "good")
			return nil
		}
		if during.Load() && n < 20 {
			n++
			calls = append(calls, "trial")
			f.publish(t, "topic", "good", fmt.Sprint("good-", n))
			within(t, "the relay has it", func() bool {
				p := f.relay.Progress()
				return len(p.Topics) == 1 && p.Topics[0].Buffered > 0
			})
		}
		return errors.New("bad")
	}
	f = run(t, to, outbox.RelayConfig{Concurrency: 1, Attempts: 1_000})
	for i := range 5 {
		f.publish(t, "topic", fmt.Sprint("bad-", i), fmt.Sprint("bad-", i))
	}
	within(t, "all are retried", func() bool {
		f.publish(t, "topic", "good", "proof")
		s, err := f.box.Stats(t.Context())
		return err == nil && s.Retrying == 5
	})
	f.drain(t)
	during.Store(true)
	within(t, "they have been tried often", func() bool {
		return f.relay.Published() > 0 && slices.Contains(to.ids(), "good-20")
	})
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	for i := range calls[1:] {
		if calls[i] == "trial" && calls[i+1] == "trial" {
			t.Fatalf("two in a row while others waited: %v", calls)
		}
	}
}

// A sweep goes on behind the message at which the last one ended, also when others have come in front of it since.
func TestSweepsGetOnWhileMessagesArrive(t *testing.T) {
	in := func(strand int) (next func() string) {
		n := 0
		return func() string {
			for {
				n++
				if k := fmt.Sprint("k", n); outbox.ShardOf(k)*4/outbox.Shards == strand { // of 4
					return k
				}
			}
		}
	}
	front, middle, back := in(0), in(1), in(2)
	var failed atomic.Int64
	swept, passed := make(chan struct{}, 100), make(chan struct{})
	pass := sync.OnceFunc(func() { close(passed) })
	to := &scripted{script: func(_ string, msgs []*message.Message) error {
		if !strings.HasPrefix(msgs[0].UUID, "bad") {
			pass()
			return nil
		}
		if n := failed.Add(1); n%4 == 0 && n < 100 { // as many as a sweep tries
			swept <- struct{}{}
		}
		return errors.New("down")
	}}
	f := serve(t, openSQLite(t), to, outbox.RelayConfig{Backoff: 50 * time.Millisecond, MaxBackoff: 50 * time.Millisecond})
	for i := range 8 {
		f.publish(t, "topic", middle(), fmt.Sprint("bad", i))
	}
	within(t, "one fails", func() bool { return failed.Load() > 0 })
	f.publish(t, "topic", back(), "good")
	for n := 0; ; n++ {
		select {
		case <-swept:
			for range 4 {
				f.publish(t, "topic", front(), fmt.Sprint("new", n))
			}
			continue
		case <-passed:
			if n := failed.Load(); n > 40 {
				t.Errorf("%d tries were needed to find that all but 8 messages pass", n)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("nothing has passed, though all but 8 messages would; %d tries", failed.Load())
		}
		return
	}
}
