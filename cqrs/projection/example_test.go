package projection_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/glebarez/sqlite"
	"gorm.io/gorm"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/cqrs/localbus"
	"github.com/surge-go/surge/cqrs/projection"
	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
)

type Deposited struct {
	Account string
	Amount  int
}

var bank = cqrs.NewCatalog(cqrs.Event[Deposited]{
	Name: "bank.deposited", Key: func(e Deposited) string { return e.Account },
})

// Balances are what queries read: one table per generation.
func createBalances(ctx context.Context, db *gorm.DB) error {
	return db.WithContext(ctx).Exec("CREATE TABLE IF NOT EXISTS " + projection.Table(ctx, "balances") +
		" (account TEXT PRIMARY KEY, balance INTEGER NOT NULL)").Error
}

func deposit(ctx context.Context, events []Deposited) error {
	for _, e := range events {
		err := uow.DB(ctx).Exec("INSERT INTO "+projection.Table(ctx, "balances")+" VALUES (?, ?)"+
			" ON CONFLICT (account) DO UPDATE SET balance = balance + excluded.balance", e.Account, e.Amount).Error
		if err != nil {
			return err
		}
	}
	return nil
}

// shop is what the examples run on: a database, an outbox with an archive, and a bus.
type shop struct {
	db     *gorm.DB
	work   *uow.UnitOfWork
	box    *outbox.Outbox
	sender *cqrs.Sender
	bus    *localbus.Bus
	relay  *outbox.Relay
}

func openShop(ctx context.Context) *shop {
	s := &shop{bus: localbus.New(localbus.Config{InTransaction: uow.In})}
	var err error
	s.db, err = gorm.Open(sqlite.Open(":memory:"), &gorm.Config{})
	check(err)
	s.work, err = uow.New(s.db, uow.Config{})
	check(err)
	check(errors.Join(outbox.Migrate(ctx, s.db), idempotency.Migrate(ctx, s.db), gormstore.Migrate(ctx, s.db)))
	s.box, err = outbox.New(s.db, outbox.Config{})
	check(err)
	s.sender, err = cqrs.NewSender(bank, s.box, cqrs.SenderConfig{})
	check(err)
	s.relay, err = outbox.NewRelay(s.box, s.bus.Publisher(),
		outbox.RelayConfig{UnitOfWork: s.work, Archive: 365 * 24 * time.Hour})
	check(err)
	return s
}

func (s *shop) close() {
	pool, err := s.db.DB()
	check(errors.Join(err, s.bus.Close(), pool.Close()))
}

// balances is the projection.
func (s *shop) balances(version int) *projection.Projection {
	store, err := gormstore.NewProjections(s.db)
	check(err)
	p, err := projection.New("balances", bank, s.work, store, s.bus, projection.Config{
		Version: version, Source: projection.FromArchive(s.archive),
		Inbox:  idempotency.NewInbox(idempotency.InboxConfig{}),
		Create: func(ctx context.Context) error { return createBalances(ctx, s.db) },
	})
	check(err)
	return p
}

// archive is the outbox's archive as a source.
func (s *shop) archive(ctx context.Context, q projection.ArchiveQuery) iter.Seq2[projection.Archived, error] {
	f := outbox.ArchiveFilter{Topics: q.Topics, After: q.After, Since: q.Since}
	return func(yield func(projection.Archived, error) bool) {
		for m, err := range s.box.Archived(ctx, f) {
			if !yield(projection.Archived{Position: m.Seq, Topic: m.Topic, Message: m.Message}, err) {
				return
			}
		}
	}
}

// run runs what is given, in the order given, until the function that it returns is called.
func run(parts ...interface{ Run(context.Context) error }) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	for _, p := range parts {
		go func() { ended <- p.Run(ctx) }()
	}
	return func() {
		cancel()
		for range parts {
			check(<-ended)
		}
	}
}

// publish writes events in a transaction and returns their IDs.
func (s *shop) publish(ctx context.Context, events ...any) []string {
	var sent *cqrs.Sent
	check(s.work.Do(ctx, func(ctx context.Context) error {
		ctx, sent = cqrs.Collect(ctx)
		return s.sender.Publish(ctx, events...)
	}))
	return sent.IDs()
}

// wait waits until the model has them.
func wait(ctx context.Context, p *projection.Projection, ids []string) {
	for _, id := range ids {
		check(p.Wait(ctx, projection.Message(id), 10*time.Second))
	}
}

func (s *shop) print(ctx context.Context, p *projection.Projection) {
	ctx, err := p.Live(ctx)
	check(err)
	var rows []struct {
		Account string
		Balance int
	}
	check(s.db.WithContext(ctx).Table(projection.Table(ctx, "balances")).Order("account").Find(&rows).Error)
	fmt.Println("version", projection.GenerationOf(ctx).Version, rows)
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// A projection follows events; who has written one waits for it, and reads what it has written.
func Example() {
	ctx := context.Background()
	s := openShop(ctx)
	p := s.balances(1)
	projection.On(p, deposit)
	check(p.Declare(ctx))
	stop := run(p, s.relay)

	wait(ctx, p, s.publish(ctx, Deposited{"ann", 10}, Deposited{"bob", 20}, Deposited{"ann", 5}))
	s.print(ctx, p)

	stop()
	s.close()
	// Output:
	// version 1 [{ann 15} {bob 20}]
}

// A new version of the code is built from the archive, beside the old model, and then takes its place.
func ExampleConfig_version() {
	ctx := context.Background()
	s := openShop(ctx)
	v1 := s.balances(1)
	projection.On(v1, deposit)
	check(v1.Declare(ctx))
	stop := run(v1, s.relay)
	wait(ctx, v1, s.publish(ctx, Deposited{"ann", 10}, Deposited{"bob", 20}))
	s.print(ctx, v1)
	stop()

	v2 := s.balances(2) // counts cents now
	projection.On(v2, func(ctx context.Context, events []Deposited) error {
		for i := range events {
			events[i].Amount *= 100
		}
		return deposit(ctx, events)
	})
	s.bus.Forget("balances.g1") // another process would not know of it
	stop = run(v2, s.relay)
	for live := int64(1); live == 1; {
		m, err := v2.Model(ctx)
		check(err)
		live = m.Live
	}
	s.print(ctx, v2)
	wait(ctx, v2, s.publish(ctx, Deposited{"ann", 1}))
	s.print(ctx, v2)
	stop()
	s.close()
	// Output:
	// version 1 [{ann 10} {bob 20}]
	// version 2 [{ann 1000} {bob 2000}]
	// version 2 [{ann 1100} {bob 2000}]
}

// Rebuild fills a shadow from the declared source while the live model is read, and swaps.
func ExampleProjection_Rebuild() {
	ctx := context.Background()
	s := openShop(ctx)
	p := s.balances(1)
	projection.On(p, deposit)
	check(p.Declare(ctx))
	stop := run(p, s.relay)
	wait(ctx, p, s.publish(ctx, Deposited{"ann", 10}, Deposited{"bob", 20}))

	fmt.Println(p.Rebuild(ctx))
	live, err := p.Live(ctx)
	check(err)
	fmt.Println(projection.Table(live, "balances"))
	s.print(ctx, p)
	stop()
	s.close()
	// Output:
	// <nil>
	// balances_g2
	// version 1 [{ann 10} {bob 20}]
}

// A query that would rather have an old answer than none looks how old it is.
func ExampleProjection_Wait() {
	ctx := context.Background()
	s := openShop(ctx)
	p := s.balances(1)
	projection.On(p, deposit)
	check(p.Declare(ctx))
	stop := run(p) // without the relay, nothing comes
	for {
		if _, err := p.Live(ctx); !errors.Is(err, projection.ErrNoModel) {
			check(err)
			break
		}
	}
	ids := s.publish(ctx, Deposited{"ann", 10})
	err := p.Wait(ctx, projection.Message(ids[0]), 10*time.Millisecond)
	var stale *projection.StaleError
	if errors.As(err, &stale) {
		fmt.Println("stale:", errors.Is(err, projection.ErrStale), "asked for:", stale.Token == projection.Message(ids[0]))
	}
	stop()
	s.close()
	// Output:
	// stale: true asked for: true
}
