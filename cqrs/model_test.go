package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// Three processes of a group that come and go, with a bus that moves partitions, a database that is slow, refuses
// commits and loses their answers, and handlers that fail, panic, hang and postpone: each message has its effect once,
// in the order of its key, and nothing is left.
func TestRule04_RandomRunsKeepTheOrderOfKeys(t *testing.T) {
	t.Parallel()
	seeds := uint64(12)
	if v := os.Getenv("SURGE_TEST_SEEDS"); v != "" {
		var err error
		if seeds, err = strconv.ParseUint(v, 10, 32); err != nil {
			t.Fatal("SURGE_TEST_SEEDS: ", err)
		}
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { newModel(t, seed).run() })
		})
	}
}

// A model is one random run.
type model struct {
	t       *testing.T
	seed    uint64
	db      *modelDB
	bus     *modelBus
	batches bool          // the handler sees many messages
	limit   time.Duration // of a handler

	mu   sync.Mutex
	rng  *rand.Rand // of processes' configurations
	live sync.Map   // the processors that run, by process
	stop chan struct{}

	sent int
	next map[string]int // number of a key's next message
}

func newModel(t *testing.T, seed uint64) *model {
	random := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, n)) }
	m := &model{
		t: t, seed: seed, rng: random(1), stop: make(chan struct{}), next: map[string]int{},
		db: &modelDB{
			rng: random(2), rows: map[string]*modelRow{}, changed: make(chan struct{}), strict: seed%2 == 0,
			slow:   []time.Duration{0, 2 * time.Millisecond, 50 * time.Millisecond, 400 * time.Millisecond}[seed%4],
			faults: []int{0, 10, 50}[seed%3],
		},
		bus:     &modelBus{rng: random(3)},
		batches: seed%5 == 0,
		limit:   []time.Duration{time.Hour, 40 * time.Second, 4 * time.Second}[seed/2%3],
	}
	for range 4 {
		m.bus.parts = append(m.bus.parts, &modelPartition{})
	}
	return m
}

// handle does what a handler may do to a message, at random, and until the run comes to its end.
func (m *model) handle(ctx context.Context, id string) error {
	d := m.db
	d.mu.Lock()
	r, n, quiet := d.rng.IntN(1000), d.rng.IntN(1000), d.quiet
	d.mu.Unlock()
	if quiet {
		return d.effect(ctx, id)
	}
	ms := func(factor int) time.Duration { return time.Duration(n*factor) * time.Millisecond }
	switch {
	case r < 500:
	case r < 600:
		time.Sleep(ms(1))
	case r < 640:
		time.Sleep(ms(30))
	case r < 650:
		time.Sleep(ms(100))
	case r < 725:
		return errors.Join(d.effect(ctx, id), errors.New("not now"))
	case r < 800:
		return errors.New("not now")
	case r < 830:
		time.Sleep(ms(20))
		return errors.New("slow, and not now")
	case r < 870:
		return cqrs.Later(ms(5), errors.New("later"))
	case r < 880:
		return openBreaker{ms(2)}
	case r < 890:
		return fmt.Errorf("%w: for good", cqrs.ErrUndecodable)
	case r < 900:
		panic("boom")
	}
	return d.effect(ctx, id)
}

// processor makes one of a random configuration, with a connection of its own.
func (m *model) processor() (*cqrs.Processor, *modelProcess) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, r := &modelProcess{modelDB: m.db}, m.rng
	s, err := cqrs.NewSender(catalog(), newDB(), cqrs.SenderConfig{Source: "test"})
	if err != nil {
		panic(err)
	}
	cfg := cqrs.ProcessorConfig{
		Subscribe:  func(string) (message.Subscriber, error) { return &modelSubscriber{bus: m.bus}, nil },
		UnitOfWork: c, InTransaction: m.db.in, Inbox: c, Parking: c, DeadLetters: modelLetters{c},
		Lanes: 1 + r.IntN(3), MaxBatch: 1 + r.IntN(6), Poll: time.Duration(50+r.IntN(3000)) * time.Millisecond,
		HandlerTimeout: m.limit, Grace: time.Duration(1+r.IntN(20)) * time.Second,
		Retry: cqrs.Retry{Attempts: 2 + r.IntN(4), Min: 100 * time.Millisecond, Max: 5 * time.Second},
	}
	if r.IntN(2) == 0 {
		cfg.Linger = time.Duration(r.IntN(200)) * time.Millisecond
	}
	p, err := cqrs.NewProcessor("shop", s, cfg)
	if err != nil {
		panic(err)
	}
	if !m.batches {
		cqrs.On(p, func(ctx context.Context, n note) error { return m.handle(ctx, n.Text) })
		return p, c
	}
	p.Consume(func(ctx context.Context, ds []*cqrs.Delivery) error {
		if m.db.chance(30) {
			return errors.New("all of it")
		}
		for _, d := range ds {
			d.Err = m.handle(ctx, d.Envelope.ID)
		}
		return nil
	}, cqrs.FromTypes("shop.note"))
	return p, c
}

// process starts and stops processors, one after the other; some cannot reach the database at their end.
func (m *model) process(n int) {
	r := rand.New(rand.NewPCG(m.seed, uint64(10+n)))
	for {
		p, c := m.processor()
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		m.live.Store(n, p)
		go func() { ended <- p.Run(ctx) }()
		life := time.Duration(5+r.IntN(300)) * time.Second
		if m.db.isQuiet() {
			life = 1000 * time.Hour
		}
		over := false
		select {
		case <-m.stop:
			over = true
		case <-time.After(life):
		}
		if !over && r.IntN(3) == 0 {
			c.cutOff(true)
			time.Sleep(time.Duration(r.IntN(20)) * time.Second)
			c.cutOff(r.IntN(2) == 0)
		}
		m.live.Delete(n)
		cancel()
		<-ended // a handler may hang
		if over {
			return
		}
		time.Sleep(time.Duration(r.IntN(10)) * time.Second)
	}
}

// send sends a message: of a key, without one, or scheduled.
func (m *model) send(r *rand.Rand) {
	k := r.IntN(6)
	key := fmt.Sprint("k", k)
	id := fmt.Sprint("other-", m.sent)
	var msg *message.Message
	switch r.IntN(12) {
	case 0:
		msg = noteMsg(id, key, id)
		at := time.Now().Add(time.Duration(r.IntN(30_000)) * time.Millisecond)
		msg.Metadata[cqrs.HeaderDeliverAt] = at.UTC().Format(time.RFC3339Nano)
	case 1:
		msg = noteMsg(id, "", id)
	default:
		id = fmt.Sprint(key, "-", m.next[key])
		m.next[key]++
		msg = noteMsg(id, key, id)
	}
	m.bus.send(k, msg)
	m.sent++
}

func (m *model) run() {
	r := rand.New(rand.NewPCG(m.seed, 4))
	var processes sync.WaitGroup
	for n := range 3 {
		processes.Go(func() { m.process(n) })
	}
	for round := range 40 {
		for range 1 + r.IntN(12) {
			m.send(r)
		}
		time.Sleep(time.Duration(r.IntN(8000)) * time.Millisecond)
		if round%5 == 4 {
			m.bus.rebalance()
		}
		if round%3 == 1 {
			m.replay()
		}
	}
	time.Sleep(2 * time.Minute)
	m.db.calm()
	for range 60 {
		time.Sleep(time.Minute)
		m.replay()
	}
	time.Sleep(time.Hour)
	close(m.stop)
	processes.Wait()
	m.check()
}

// replay replays all dead letters.
func (m *model) replay() {
	ids := m.db.deadLetters()
	if len(ids) == 0 {
		return
	}
	m.live.Range(func(_, p any) bool {
		_, _ = p.(*cqrs.Processor).Replay(context.Background(), ids...)
		return false
	})
}

func (m *model) check() {
	m.db.mu.Lock()
	defer m.db.mu.Unlock()
	seen, next := map[string]bool{}, map[string]int{}
	for _, id := range m.db.effects {
		if seen[id] {
			m.t.Errorf("%s had its effect twice", id)
		}
		seen[id] = true
		key, number, _ := strings.Cut(id, "-")
		if key == "other" {
			continue
		}
		n, _ := strconv.Atoi(number)
		if n != next[key] {
			m.t.Errorf("%s had its effect, want %s-%d first", id, key, next[key])
		}
		next[key] = n + 1
	}
	if len(seen) != m.sent {
		m.t.Errorf("%d of %d messages had their effect", len(seen), m.sent)
	}
	for name, r := range m.db.rows {
		if r.val != nil && !strings.HasPrefix(name, "inbox/") {
			m.t.Errorf("left: %s", name)
		}
	}
}
