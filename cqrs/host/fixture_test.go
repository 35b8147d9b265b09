package host_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/glebarez/sqlite"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/aggregate"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/cqrs/host"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/logger"
)

type placeOrder struct {
	cqrs.Returns[string]
	ID, SKU string
}

type orderPlaced struct{ ID, SKU string }

// pack is handled by nobody.
type pack struct{ ID string }

type order struct {
	aggregate.Root
	ID  string `gorm:"primaryKey;size:60"`
	SKU string
}

// A seen row says that an event was handled.
type seen struct {
	ID string `gorm:"primaryKey;size:60"`
	N  int
}

var catalog = cqrs.NewCatalog(
	cqrs.Command[placeOrder]{Name: "orders.place", Key: func(c placeOrder) string { return c.ID }},
	cqrs.Event[orderPlaced]{Name: "orders.placed", Key: func(e orderPlaced) string { return e.ID }},
	cqrs.Command[pack]{Name: "packing.pack", Key: func(p pack) string { return p.ID }},
)

// openDB opens a database file; opening the same path again is what a restart does.
func openDB(t *testing.T, path string) *gorm.DB {
	t.Helper()
	dsn := path + "?_pragma=synchronous(OFF)&_pragma=busy_timeout(5000)"
	db, err := gorm.Open(sqlite.Open(dsn), &gorm.Config{Logger: logger.Discard})
	must(t, err)
	t.Cleanup(func() {
		if pool, err := db.DB(); err == nil {
			_ = pool.Close()
		}
	})
	return db
}

func newDB(t *testing.T) *gorm.DB {
	t.Helper()
	return openDB(t, filepath.Join(t.TempDir(), "host.db"))
}

func open(t *testing.T, name string, db *gorm.DB, cfg host.Config) *host.Service {
	t.Helper()
	svc, err := host.Open(t.Context(), name, db, catalog, cfg)
	must(t, err)
	must(t, db.AutoMigrate(&order{}, &seen{}))
	return svc
}

// place registers the handler of placeOrder.
func place(svc *host.Service) {
	orders := gormstore.NewRepository[order, string](svc.Sender)
	cqrs.Handle(svc.Processor, func(ctx context.Context, c placeOrder) (string, error) {
		o := &order{ID: c.ID, SKU: c.SKU}
		o.Record(orderPlaced{o.ID, o.SKU})
		return o.ID, orders.Save(ctx, o)
	})
}

// watch registers a handler of orderPlaced that writes a row and tells the channel after the commit.
func watch(p *cqrs.Processor) <-chan string {
	told := make(chan string, 10_000)
	cqrs.On(p, func(ctx context.Context, e orderPlaced) error {
		err := uow.DB(ctx).Clauses(clause.OnConflict{
			Columns: []clause.Column{{Name: "id"}}, DoUpdates: clause.Assignments(map[string]any{"n": gorm.Expr("seens.n+1")}),
		}).Create(&seen{ID: e.ID, N: 1}).Error
		if err != nil {
			return err
		}
		return uow.AfterCommit(ctx, func() { told <- e.ID })
	})
	return told
}

// run runs services until the returned function is called, which returns what Run returned.
func run(t *testing.T, services ...*host.Service) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- host.Run(ctx, services...) }()
	return sync.OnceValue(func() error {
		cancel()
		return receive(t, done)
	})
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	timeout := time.NewTimer(30 * time.Second)
	defer timeout.Stop()
	select {
	case v := <-from:
		return v
	case <-timeout.C:
		t.Fatal("nothing came for 30 s")
		panic("unreachable")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually asks until it is true, or fails the test after 30 s.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	for !ok() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// part is a Part made of a function.
type part func(context.Context) error

func (p part) Run(ctx context.Context) error { return p(ctx) }

// broker is a transport that does not wait for its groups, like Kafka: it keeps what is published, for those who come
// later.
type broker struct {
	mu    sync.Mutex
	kept  map[string][]*message.Message      // by topic
	subs  map[string][]chan *message.Message // by topic
	trace func(what string)
}

func newBroker(trace func(string)) *broker {
	return &broker{
		kept: map[string][]*message.Message{}, subs: map[string][]chan *message.Message{}, trace: trace,
	}
}

func (b *broker) Publisher() message.Publisher { return brokerEnd{b} }

func (b *broker) Subscriber(string) (message.Subscriber, error) { return brokerEnd{b}, nil }

func (b *broker) published() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, msgs := range b.kept {
		n += len(msgs)
	}
	return n
}

type brokerEnd struct{ *broker }

func (b brokerEnd) Publish(topic string, msgs ...*message.Message) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept[topic] = append(b.kept[topic], msgs...)
	for _, ch := range b.subs[topic] {
		deliver(ch, msgs)
	}
	return nil
}

func deliver(to chan<- *message.Message, msgs []*message.Message) {
	for _, m := range msgs {
		copied := m.Copy()
		copied.SetContext(context.Background())
		to <- copied
	}
}

func (b brokerEnd) Subscribe(_ context.Context, topic string) (<-chan *message.Message, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ch := make(chan *message.Message, 10_000)
	b.subs[topic] = append(b.subs[topic], ch)
	deliver(ch, b.kept[topic])
	return ch, nil
}

func (b brokerEnd) Close() error {
	b.trace("group closed")
	return nil
}

var errBoom = errors.New("boom")
