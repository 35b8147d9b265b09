package benchmarks_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"gorm.io/gorm"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/outbox/uow/pgxpipe"
)

// placeOrder is the command that is handled, and orderPlaced the event that the handler publishes.
type placeOrder struct {
	cqrs.Returns[struct{}]
	Order string
	Units int
}

type orderPlaced struct {
	Order string
	Units int
}

const insertOrder = "INSERT INTO orders (id, units) VALUES (?, ?)"

// BenchmarkHandle handles messages on PostgreSQL: the inbox, one INSERT and one outbox message each. Surge does it in
// transactions of 64 messages, with a handler that sees one message and with one that sees a lane's batch. 4x64-in-4 are
// four lanes of 64 messages with a transaction each; the 8 lanes of 8x16-in-2 share two transactions. "batch-1" is the
// same handler with a transaction for each message, and "by-hand" the same statements in a loop that somebody wrote.
func BenchmarkHandle(b *testing.B) {
	h := newHandling(b, openPostgres(b))
	n := scaled(b, 2048)
	all := []contender{}
	for _, s := range []setting{{4, 64, 4, 1}, {8, 64, 8, 1}, {8, 16, 2, 64}} {
		all = append(
			all, contender{
				name: "surge-" + s.String(), side: "surge", against: []string{"batch-1", "by-hand"}, round: h.surge(n, s, h.one),
			}, contender{
				name: "surge-queue-" + s.String(), side: "surge-queue",
				against: []string{"batch-1", "by-hand"}, round: h.surge(n, s, h.queued),
			}, contender{
				name: "surge-batch-handler-" + s.String(), side: "surge-batch-handler",
				against: []string{"batch-1", "by-hand-batch"}, round: h.surge(n, s, h.many),
			})
	}
	for _, lanes := range []int{8, 16, 32} {
		s := setting{lanes, 1, lanes, 1}
		all = append(all, contender{name: "batch-1-" + s.String(), side: "batch-1", round: h.surge(n/4, s, h.one)})
	}
	contest(b, "msg/s", append(
		all,
		contender{name: "by-hand-2", side: "by-hand", round: h.byHand(n, 2, insertEach)},
		contender{name: "by-hand-4", side: "by-hand", round: h.byHand(n, 4, insertEach)},
		contender{name: "by-hand-batch-2", side: "by-hand-batch", round: h.byHand(n, 2, insertAll)},
		contender{name: "by-hand-batch-4", side: "by-hand-batch", round: h.byHand(n, 4, insertAll)},
	)...)
}

// A setting is how a processor is configured: lanes of batches, and at most so many transactions at a time that so
// many lanes share.
type setting struct{ lanes, batch, transactions, share int }

func (s setting) String() string {
	return fmt.Sprintf("%dx%d-in-%d", s.lanes, s.batch, s.transactions)
}

// handling is what all ways of handling have in common.
type handling struct {
	db      *database
	box     *outbox.Outbox
	catalog *cqrs.Catalog
}

func newHandling(b *testing.B, db *database) *handling {
	b.Helper()
	ctx := context.Background()
	must(b, outbox.Migrate(ctx, db.DB))
	must(b, idempotency.Migrate(ctx, db.DB))
	must(b, gormstore.Migrate(ctx, db.DB))
	db.exec(b, "CREATE TABLE orders (id text PRIMARY KEY, units bigint NOT NULL)")
	box, err := outbox.New(db.DB, outbox.Config{})
	must(b, err)
	return &handling{db: db, box: box, catalog: cqrs.NewCatalog(
		cqrs.Command[placeOrder]{Name: "orders.place", Key: func(c placeOrder) string { return c.Order }},
		cqrs.Event[orderPlaced]{Name: "orders.placed", Key: func(e orderPlaced) string { return e.Order }},
	)}
}

// commands are n messages as a sender makes them.
func (h *handling) commands(b *testing.B, n int) []*message.Message {
	b.Helper()
	keep := &keeper{}
	s, err := cqrs.NewSender(h.catalog, keep, cqrs.SenderConfig{Source: "shop"})
	must(b, err)
	for i := range n {
		must(b, s.Send(context.Background(), placeOrder{Order: id(i), Units: i}))
	}
	return keep.msgs
}

// keeper is a publisher that keeps what it gets, all for one topic.
type keeper struct {
	topic string
	msgs  []*message.Message
}

// Publish makes a keeper a message.Publisher.
func (k *keeper) Publish(topic string, msgs ...*message.Message) error {
	k.topic = topic
	k.msgs = append(k.msgs, msgs...)
	return nil
}

// Close makes a keeper a message.Publisher.
func (k *keeper) Close() error { return nil }

// measured empties the tables, has n messages handled, and looks whether every effect is there.
func (h *handling) measured(b *testing.B, connections, n int, do func() time.Duration) (int, time.Duration) {
	b.Helper()
	h.db.empty(b, "orders", "outbox", "idempotency_inbox")
	h.db.connect(b, connections)
	then := h.db.cost(b)
	took := do()
	h.db.since(b, then, n)
	h.db.wants(b, n, "SELECT count(*) FROM orders")
	h.db.wants(b, n, "SELECT count(DISTINCT aggregateid) FROM outbox WHERE type = 'orders.placed'")
	h.db.wants(b, n, "SELECT count(*) FROM idempotency_inbox")
	return n, took
}

// surge runs a processor that is wired as package host does it, without a relay.
func (h *handling) surge(
	n int, s setting, register func(*cqrs.Processor),
) func(b *testing.B) (int, time.Duration) {
	return func(b *testing.B) (int, time.Duration) {
		b.Helper()
		msgs := h.commands(b, n)
		return h.measured(b, s.transactions+2, n, func() time.Duration {
			feed := newFeed()
			p := h.processor(b, feed, s)
			register(p)
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			go func() { ended <- p.Run(ctx) }()
			<-p.Running()
			took := feed.deliver(b, "orders.commands", msgs)
			cancel()
			must(b, <-ended)
			return took
		})
	}
}

func (h *handling) processor(b *testing.B, feed *feed, cfg setting) *cqrs.Processor {
	b.Helper()
	unit, err := uow.New(h.db.DB, uow.Config{
		MaxShare: cfg.share, Writers: cfg.transactions, Pipeline: pgxpipe.Pipeline{},
	})
	must(b, err)
	s, err := cqrs.NewSender(h.catalog, h.box, cqrs.SenderConfig{Source: "orders"})
	must(b, err)
	dead, err := gormstore.NewDeadLetters(unit, gormstore.DeadLettersConfig{})
	must(b, err)
	p, err := cqrs.NewProcessor("orders", s, cqrs.ProcessorConfig{
		Subscribe:  func(string) (message.Subscriber, error) { return feed, nil },
		UnitOfWork: unit, InTransaction: uow.In, Inbox: idempotency.NewInbox(idempotency.InboxConfig{}),
		Parking: gormstore.NewParking(), DeadLetters: dead, Locker: gormstore.Locker{},
		Lanes: cfg.lanes, MaxBatch: cfg.batch,
	})
	must(b, err)
	return p
}

// one registers a handler that sees one message.
func (h *handling) one(p *cqrs.Processor) {
	cqrs.Handle(p, func(ctx context.Context, c placeOrder) (struct{}, error) {
		if err := uow.DB(ctx).Exec(insertOrder, c.Order, c.Units).Error; err != nil {
			return struct{}{}, err
		}
		return struct{}{}, p.Sender().Publish(ctx, orderPlaced{c.Order, c.Units})
	})
}

// queued registers a handler that sees one message, and whose statement is sent with those of others.
func (h *handling) queued(p *cqrs.Processor) {
	cqrs.Handle(p, func(ctx context.Context, c placeOrder) (struct{}, error) {
		if err := queueOrder(ctx, c); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, p.Sender().Publish(ctx, orderPlaced{c.Order, c.Units})
	})
}

// many registers a handler that sees the batch.
func (h *handling) many(p *cqrs.Processor) {
	cqrs.HandleBatch(p, func(ctx context.Context, items []*cqrs.Item[placeOrder, struct{}]) error {
		orders, events := make([]placeOrder, len(items)), make([]any, len(items))
		for i, it := range items {
			orders[i], events[i] = it.Message, orderPlaced{it.Message.Order, it.Message.Units}
		}
		if err := insertAll(uow.DB(ctx), orders); err != nil {
			return err
		}
		return p.Sender().Publish(ctx, events...)
	})
}

func insertEach(tx *gorm.DB, orders []placeOrder) error {
	for _, o := range orders {
		if err := tx.Exec(insertOrder, o.Order, o.Units).Error; err != nil {
			return err
		}
	}
	return nil
}

func insertAll(tx *gorm.DB, orders []placeOrder) error {
	ids, units := make([]string, len(orders)), make([]int64, len(orders))
	for i, o := range orders {
		ids[i], units[i] = o.Order, int64(o.Units)
	}
	_, err := tx.Statement.ConnPool.ExecContext(tx.Statement.Context,
		"INSERT INTO orders (id, units) SELECT * FROM unnest($1::text[], $2::bigint[])", ids, units)
	return err
}

// byHand claims, inserts and publishes in transactions of 64 messages.
func (h *handling) byHand(
	n, writers int, insert func(*gorm.DB, []placeOrder) error,
) func(b *testing.B) (int, time.Duration) {
	return func(b *testing.B) (int, time.Duration) {
		b.Helper()
		msgs := h.commands(b, n)
		return h.measured(b, writers, n, func() time.Duration {
			return crowd(b, writers, (n+callers-1)/callers, func(group int) error {
				batch := msgs[group*callers : min(n, (group+1)*callers)]
				return h.db.Transaction(func(tx *gorm.DB) error { return h.handle(tx, batch, insert) })
			})
		})
	}
}

func (h *handling) handle(tx *gorm.DB, batch []*message.Message, insert func(*gorm.DB, []placeOrder) error) error {
	ids, orders := make([]string, len(batch)), make([]placeOrder, len(batch))
	for i, m := range batch {
		ids[i] = m.UUID
		if err := json.Unmarshal(m.Payload, &orders[i]); err != nil {
			return err
		}
	}
	conn, ctx := tx.Statement.ConnPool, tx.Statement.Context
	claimed, err := conn.ExecContext(ctx, `INSERT INTO idempotency_inbox (consumer, message, token, expires_at)
		SELECT 'orders', m, 1, extract(epoch FROM clock_timestamp()) * 1000 + 1209600000 FROM unnest($1::text[]) AS m
		ON CONFLICT DO NOTHING`, ids)
	if err != nil {
		return err
	}
	if fresh, err := claimed.RowsAffected(); err != nil || int(fresh) != len(batch) {
		return fmt.Errorf("%d of %d messages are new: %w", fresh, len(batch), err)
	}
	if err := insert(tx, orders); err != nil {
		return err
	}
	events := make([]*message.Message, len(batch))
	for i, o := range orders {
		body, err := json.Marshal(orderPlaced{o.Order, o.Units})
		if err != nil {
			return err
		}
		events[i] = message.NewMessage(watermill.NewUUID(), body)
		events[i].Metadata = headers(0)
		events[i].Metadata.Set("ce_partitionkey", o.Order)
	}
	return h.box.PublishTx(tx, "orders.events", events...)
}
