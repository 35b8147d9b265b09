package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// db is a database, an outbox with its relay, and a bus in memory: a unit of work with nested undo, an inbox, parked
// messages and dead letters, a publisher that joins the transaction, and subscribers that deliver without limit.
type db struct {
	mu      gate       // held by the outermost Do
	rows    sync.Mutex // as a driver's: also a handler that was left behind writes
	state   tables
	commits int
	claims  [][]string
	reruns  int                 // every outermost Do runs its function this many times more, undoing each
	refuse  func(*tables) error // the commit fails with its error

	busMu sync.Mutex
	subs  map[string][]chan *message.Message
	out   []sent
}

// gate is a mutex whose waiters are idle in the eyes of synctest.
type gate chan struct{}

func (g gate) Lock()   { g <- struct{}{} }
func (g gate) Unlock() { <-g }

type sent struct {
	topic string
	msg   *message.Message
}

type tables struct {
	rows   map[string]int
	inbox  map[string]bool
	parked []parkedRow
	dead   map[string]deadRow
	outbox []sent
	runs   map[string]*cqrs.Peer
	begun  map[string]int
}

type parkedRow struct {
	cqrs.Parked
	due   time.Time
	until time.Time // of the lease
}

type deadRow struct {
	cqrs.DeadLetter
	state string
}

func (t tables) clone() tables {
	return tables{
		rows: maps.Clone(t.rows), inbox: maps.Clone(t.inbox), parked: slices.Clone(t.parked),
		dead: maps.Clone(t.dead), outbox: slices.Clone(t.outbox), runs: maps.Clone(t.runs), begun: maps.Clone(t.begun),
	}
}

func newDB() *db {
	return &db{
		mu: make(gate, 1),
		state: tables{
			rows: map[string]int{}, inbox: map[string]bool{}, dead: map[string]deadRow{},
			runs: map[string]*cqrs.Peer{}, begun: map[string]int{},
		},
		subs: map[string][]chan *message.Message{},
	}
}

type txKey struct{}

// frame is a part of the transaction; once it is over nothing can be written through its context.
type frame struct{ over atomic.Bool }

var errEnded = errors.New("the transaction has ended")

// write is a handler's own write, which fails in a transaction that has ended.
func (b *db) write(ctx context.Context, row string, n int) error {
	f, ok := ctx.Value(txKey{}).(*frame)
	if !ok || f.over.Load() {
		return errEnded
	}
	b.rows.Lock()
	defer b.rows.Unlock()
	b.state.rows[row] += n
	return nil
}

func inTx(ctx context.Context) bool { return ctx.Value(txKey{}) != nil }

var errUndo = errors.New("run again")

// Do runs fn holding the only transaction; nested calls undo their own part.
func (b *db) Do(ctx context.Context, fn func(context.Context) error) error {
	if inTx(ctx) {
		return b.part(ctx, fn)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	ctx = context.WithValue(context.WithoutCancel(ctx), txKey{}, &frame{})
	for range b.reruns {
		_ = b.part(ctx, func(ctx context.Context) error { _ = fn(ctx); return errUndo })
	}
	err := b.part(ctx, func(ctx context.Context) error {
		if err := fn(ctx); err != nil || b.refuse == nil {
			return err
		}
		return b.refuse(&b.state)
	})
	if err != nil {
		return err
	}
	b.commits++
	b.relay()
	return nil
}

func (b *db) part(ctx context.Context, fn func(context.Context) error) error {
	b.rows.Lock()
	before, ok := b.state.clone(), false
	b.rows.Unlock()
	f := &frame{}
	ctx = context.WithValue(ctx, txKey{}, f)
	defer func() {
		f.over.Store(true)
		b.rows.Lock()
		defer b.rows.Unlock()
		if !ok {
			b.state = before
		}
	}()
	err := fn(ctx)
	ok = err == nil
	return err
}

// relay publishes what was committed.
func (b *db) relay() {
	b.busMu.Lock()
	defer b.busMu.Unlock()
	for _, s := range b.state.outbox {
		b.out = append(b.out, s)
		for _, ch := range b.subs[s.topic] {
			ch <- s.msg.Copy()
		}
	}
	b.state.outbox = nil
}

// Publish joins the transaction in the messages' context; without one it delivers at once.
func (b *db) Publish(topic string, msgs ...*message.Message) error {
	for _, m := range msgs {
		if f, ok := m.Context().Value(txKey{}).(*frame); ok && f.over.Load() {
			return errEnded
		} else if !ok {
			b.mu.Lock()
			b.state.outbox = append(b.state.outbox, sent{topic, m})
			b.relay()
			b.mu.Unlock()
			continue
		}
		b.state.outbox = append(b.state.outbox, sent{topic, m})
	}
	return nil
}

func (b *db) Close() error { return nil }

// subscriber of any group.
func (b *db) subscriber(string) (message.Subscriber, error) { return &subscriber{db: b}, nil }

type subscriber struct {
	db   *db
	mine map[string]chan *message.Message
}

func (s *subscriber) Subscribe(_ context.Context, topic string) (<-chan *message.Message, error) {
	s.db.busMu.Lock()
	defer s.db.busMu.Unlock()
	ch := make(chan *message.Message, 10_000)
	s.db.subs[topic] = append(s.db.subs[topic], ch)
	if s.mine == nil {
		s.mine = map[string]chan *message.Message{}
	}
	s.mine[topic] = ch
	return ch, nil
}

func (s *subscriber) Close() error {
	s.db.busMu.Lock()
	defer s.db.busMu.Unlock()
	for topic, ch := range s.mine {
		if i := slices.Index(s.db.subs[topic], ch); i >= 0 {
			s.db.subs[topic] = slices.Delete(s.db.subs[topic], i, i+1)
			close(ch)
		}
	}
	s.mine = nil
	return nil
}

func (s *subscriber) Lag(context.Context) (map[string]int64, error) {
	s.db.busMu.Lock()
	defer s.db.busMu.Unlock()
	lag := map[string]int64{}
	for topic, ch := range s.mine {
		lag[topic] = int64(len(ch))
	}
	return lag, nil
}

// deliver puts messages on a topic, as they are, and returns the copies whose acks can be watched.
func (b *db) deliver(topic string, msgs ...*message.Message) {
	b.busMu.Lock()
	defer b.busMu.Unlock()
	for _, m := range msgs {
		for _, ch := range b.subs[topic] {
			ch <- m
		}
	}
}

// add is a handler's own write.
func (b *db) add(ctx context.Context, row string, n int) {
	if !inTx(ctx) {
		panic("write outside a transaction")
	}
	b.state.rows[row] += n
}

func (b *db) read(f func(*tables)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.state)
}

func (b *db) row(name string) (n int) {
	b.read(func(t *tables) { n = t.rows[name] })
	return n
}

// sentTo returns what was published to a topic.
func (b *db) sentTo(topic string) []*message.Message {
	b.busMu.Lock()
	defer b.busMu.Unlock()
	var all []*message.Message
	for _, s := range b.out {
		if s.topic == topic {
			all = append(all, s.msg)
		}
	}
	return all
}

func (b *db) Claim(ctx context.Context, group string, ids []string) ([]bool, error) {
	if !inTx(ctx) {
		return nil, errors.New("claim outside a transaction")
	}
	b.claims = append(b.claims, ids)
	if !slices.IsSorted(ids) || len(slices.Compact(slices.Clone(ids))) != len(ids) {
		return nil, fmt.Errorf("claim of %v: not sorted and distinct", ids)
	}
	fresh := make([]bool, len(ids))
	for i, id := range ids {
		fresh[i] = !b.state.inbox[group+"/"+id]
		b.state.inbox[group+"/"+id] = true
	}
	return fresh, nil
}

func (b *db) Unclaim(_ context.Context, group string, ids []string) error {
	for _, id := range ids {
		delete(b.state.inbox, group+"/"+id)
	}
	return nil
}

// config wires a processor to the whole of b.
func (b *db) config() cqrs.ProcessorConfig {
	return cqrs.ProcessorConfig{
		Subscribe: b.subscriber, UnitOfWork: b, InTransaction: inTx, Inbox: b,
		Parking: parking{b}, DeadLetters: letters{b},
		Lanes: 2, Instance: "one",
	}
}

// service is a processor under test.
type service struct {
	*db
	p    *cqrs.Processor
	s    *cqrs.Sender
	t    *testing.T
	stop func()
}

func newService(t *testing.T, b *db, c *cqrs.Catalog, cfg cqrs.ProcessorConfig) *service {
	t.Helper()
	s, err := cqrs.NewSender(c, b, cqrs.SenderConfig{Source: "test"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := cqrs.NewProcessor("shop", s, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &service{db: b, p: p, s: s, t: t}
}

// run starts the processor; the returned function stops it and fails the test if Run failed.
func (s *service) run() {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.p.Run(ctx) }()
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			s.t.Errorf("Run = %v", err)
		}
	}
	s.t.Cleanup(s.stop)
}
