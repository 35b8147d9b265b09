package outboxtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// Run checks an outbox on the databases that open opens, each test on one of its own. Tests named after a rule
// check the rule with that number in docs/correctness.md.
func Run(t *testing.T, open Factory) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Factory)
	}{
		{"Rule13_NothingLostAndKeysInOrder", testOrder},
		{"Rule13_TransactionsOfTheCallersOwn", testOwnTransactions},
		{"Rule01_NothingLeavesAnUndoneTransaction", testUndone},
		{"Rule13_IdleTransactionHoldsUpNobody", testIdleTransaction},
		{"PublisherDownCostsNoAttempt", testDown},
		{"Rule15_PublisherHalfFails", testHalfFailing},
		{"PublisherHangsForOneTopic", testHanging},
		{"Rule14_RefusedMessageBlocksItsKey", testRefused},
		{"RefusedMessageIsSkipped", testSkip},
		{"RefusedMessageBlocksItsShard", testBlockShard},
		{"DeadMessagesAreReplayedAndDiscarded", testDead},
		{"Rule14_ScheduledMessageWaits", testScheduled},
		{"Rule16_RelaysShareTheShards", testBalance},
		{"Rule15_StolenLeaseFencesDeletes", testStolen},
		{"Rule15_LeasesAreStolenUnderLoad", testThief},
		{"KilledRelayIsSucceeded", testKilled},
		{"Rule16_OtherNumberOfShardsIsRefused", testShards},
		{"PausedRelayPublishesNothing", testPause},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, open)
		})
	}
}

// A bench is a database with an outbox.
type bench struct {
	t    testing.TB
	db   *gorm.DB
	unit *uow.UnitOfWork
	box  *outbox.Outbox
}

func newBench(t testing.TB, open Factory) *bench {
	t.Helper()
	b := &bench{t: t, db: open(t)}
	migrate(t, b.db)
	exec(t, b.db, "CREATE TABLE outboxtest_keys (k INTEGER NOT NULL PRIMARY KEY, n INTEGER NOT NULL)")
	var err error
	if b.unit, err = uow.New(b.db, uow.Config{Writers: 8, MaxShare: 4}); err != nil {
		t.Fatal(err)
	}
	if b.box, err = outbox.New(b.db, outbox.Config{}); err != nil {
		t.Fatal(err)
	}
	return b
}

// relay starts a relay and returns it with a function that stops it.
func (b *bench) relay(to message.Publisher, cfg outbox.RelayConfig) (r *outbox.Relay, stop func() error) {
	b.t.Helper()
	if cfg.UnitOfWork == nil {
		cfg.UnitOfWork = b.unit
	}
	if cfg.Lease == 0 {
		cfg.Lease = 2 * time.Second
	}
	if cfg.Backoff == 0 {
		cfg.Backoff = 5 * time.Millisecond
	}
	if cfg.MaxBackoff == 0 {
		cfg.MaxBackoff = 50 * time.Millisecond
	}
	r, err := outbox.NewRelay(b.box, to, cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	var result error
	go func() {
		defer close(ended)
		result = r.Run(ctx)
	}()
	stop = sync.OnceValue(func() error {
		cancel()
		<-ended
		return result
	})
	b.t.Cleanup(func() { _ = stop() })
	return r, stop
}

// publish publishes messages of one key in a unit of work.
func (b *bench) publish(topic, key string, payloads ...string) {
	b.t.Helper()
	err := b.unit.Do(context.Background(), func(ctx context.Context) error {
		for _, p := range payloads {
			if err := b.box.Publish(topic, newMessage(ctx, key, p)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.t.Fatalf("publish: %v", err)
	}
}

func newMessage(ctx context.Context, key, payload string) *message.Message {
	m := message.NewMessage(key+"/"+payload, []byte(payload))
	m.Metadata.Set(outbox.HeaderKey, key)
	m.Metadata.Set(outbox.HeaderType, "outboxtest.Message")
	m.SetContext(ctx)
	return m
}

// drained waits until nothing is on its way.
func (b *bench) drained(r *outbox.Relay) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.Drain(ctx); err != nil {
		stats, _ := b.box.Stats(context.Background())
		b.t.Fatalf("%v; depth %d, retrying %d, health: %v", err, stats.Depth, stats.Retrying, r.Healthy(context.Background()))
	}
}

func (b *bench) stats() outbox.Stats {
	b.t.Helper()
	s, err := b.box.Stats(context.Background())
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// eventually waits until what holds.
func (b *bench) eventually(what string, holds func() bool) {
	b.t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			b.t.Fatalf("not within %v: %s", patience, what)
		}
		pause(2 * time.Millisecond)
	}
}

// never checks for a while that what does not hold.
func (b *bench) never(what string, holds func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(300 * time.Millisecond); time.Now().Before(deadline); pause(5 * time.Millisecond) {
		if holds() {
			b.t.Fatalf("must not happen: %s", what)
		}
	}
}

// pause is for durations that belong to the scenario.
func pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}

var errScripted = errors.New("outboxtest: scripted failure")

// A publisher records what it takes, after a script has had its say.
type publisher struct {
	// script sees each call first. It returns how many of the messages are taken, and the call's error.
	script func(topic string, msgs []*message.Message) (taken int, err error)

	mu     sync.Mutex
	calls  int
	taken  []*message.Message
	topics []string
}

func (p *publisher) Publish(topic string, msgs ...*message.Message) error {
	n, err := len(msgs), error(nil)
	if p.script != nil {
		n, err = p.script(topic, msgs)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls++
	for _, m := range msgs[:n] {
		p.taken = append(p.taken, m)
		p.topics = append(p.topics, topic)
	}
	return err
}

func (p *publisher) Close() error { return nil }

// payloads returns, for each topic and key, the payloads in order of their first appearance, and how many
// messages appeared again.
func (p *publisher) payloads() (byKey map[string][]string, again int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	byKey = map[string][]string{}
	seen := map[string]bool{}
	for i, m := range p.taken {
		key := p.topics[i] + "|" + m.Metadata.Get(outbox.HeaderKey)
		id := p.topics[i] + "|" + m.UUID
		if seen[id] {
			again++
			continue
		}
		seen[id] = true
		byKey[key] = append(byKey[key], string(m.Payload))
	}
	return byKey, again
}

// got returns the payloads of one topic and key.
func (p *publisher) got(topic, key string) string {
	byKey, _ := p.payloads()
	return fmt.Sprint(byKey[topic+"|"+key])
}
