// The quick start's wiring without host: what host.Open and Run do, in the open.
package main

import (
	"context"
	"errors"
	"log"
	"os"
	"os/signal"

	"github.com/glebarez/sqlite"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/cqrs/localbus"
	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
	"golang.org/x/sync/errgroup"
	"gorm.io/gorm"
)

type Greet struct {
	cqrs.Returns[string]
	Name string
}

type Greeted struct{ Name string }

var messages = cqrs.NewCatalog(
	cqrs.Event[Greeted]{Name: "greetings.greeted", Key: func(e Greeted) string { return e.Name }})

func register(p *cqrs.Processor, s *cqrs.Sender, heard func(string)) {
	cqrs.Handle(p, func(ctx context.Context, c Greet) (string, error) {
		return "hello " + c.Name, s.Publish(ctx, Greeted{c.Name}) // leaves with the commit, or not at all
	})
	cqrs.On(p, func(ctx context.Context, e Greeted) error {
		return uow.AfterCommit(ctx, func() { heard(e.Name) })
	})
}

// A service is what has to be wired; host.Service is the same with more.
type service struct {
	processor *cqrs.Processor
	sender    *cqrs.Sender
	relay     *outbox.Relay
	sweeper   *idempotency.Sweeper
	bus       *localbus.Bus
}

func open(ctx context.Context, db *gorm.DB) (*service, error) {
	err := errors.Join(outbox.Migrate(ctx, db), idempotency.Migrate(ctx, db), gormstore.Migrate(ctx, db))
	if err != nil {
		return nil, err
	}
	work, err := uow.New(db, uow.Config{})
	if err != nil {
		return nil, err
	}
	out, err := outbox.New(db, outbox.Config{})
	if err != nil {
		return nil, err
	}
	s := &service{bus: localbus.New(localbus.Config{InTransaction: uow.In})}
	if s.sender, err = cqrs.NewSender(messages, out, cqrs.SenderConfig{Source: "greetings"}); err != nil {
		return nil, err
	}
	if s.relay, err = outbox.NewRelay(out, s.bus.Publisher(), outbox.RelayConfig{UnitOfWork: work}); err != nil {
		return nil, err
	}
	return s, s.stores(work)
}

// stores connects the processor with what it keeps in the database.
func (s *service) stores(work *uow.UnitOfWork) error {
	keys, err := idempotency.NewGormStore(work, idempotency.StoreConfig{})
	if err != nil {
		return err
	}
	dead, err := gormstore.NewDeadLetters(work, gormstore.DeadLettersConfig{})
	if err != nil {
		return err
	}
	inbox := idempotency.NewInbox(idempotency.InboxConfig{})
	s.sweeper, err = idempotency.NewSweeper(work, idempotency.SweeperConfig{}, keys, inbox)
	if err != nil {
		return err
	}
	s.processor, err = cqrs.NewProcessor("greetings", s.sender, cqrs.ProcessorConfig{
		Subscribe:     s.bus.Subscriber,
		UnitOfWork:    work,
		InTransaction: uow.In,
		Inbox:         inbox,
		Keys:          keys,
		Parking:       gormstore.NewParking(),
		DeadLetters:   dead,
	})
	return err
}

// run starts everything once the bus knows who listens. It stops everything at once; host.Run has an order.
func (s *service) run(ctx context.Context) error {
	s.bus.Declare(s.processor.Group(), s.processor.Topics()...)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.processor.Run(ctx) })
	g.Go(func() error { return s.relay.Run(ctx) })
	g.Go(func() error { return s.sweeper.Run(ctx) })
	return errors.Join(g.Wait(), s.bus.Close())
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	db, err := gorm.Open(sqlite.Open("greetings.db?_pragma=journal_mode(WAL)"), &gorm.Config{})
	check(err)
	s, err := open(ctx, db)
	check(err)
	register(s.processor, s.sender, func(name string) { log.Println("greeted", name) })
	answer, err := cqrs.Execute(ctx, s.processor, Greet{Name: "Ada"})
	check(err)
	log.Println(answer)
	check(s.run(ctx)) // until Ctrl-C
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
