package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/cqrsotel"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/debezium"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// Transport carries messages between services: *localbus.Bus, *kafkabus.Bus, or a pair of Watermill's. It is the
// caller's to close, after Run. One that has a method Declare(group string, topics ...string) is taken for a bus
// whose Publish waits for the groups: it is told of them before the first relay starts. One that has a method
// Retention(ctx, topic) (time.Duration, error) is asked how long its topics keep messages, see
// [cqrs.ProcessorConfig].Retention.
type Transport interface {
	Publisher() message.Publisher
	Subscriber(group string) (message.Subscriber, error)
}

type retainer interface {
	Retention(ctx context.Context, topic string) (time.Duration, error)
}

type declarer interface {
	Declare(group string, topics ...string)
}

// Config configures a Service; the zero value works: everything in process.
type Config struct {
	// Transport carries messages. nil means an in-process bus of the service's own, on which events that no
	// group hears are dropped and commands that no group handles are an error.
	Transport Transport
	// UnitOfWork, Outbox, Relay, Keys, Inbox and Sweeper configure what they are named after. On SQLite, whose
	// file has one writer and one relay, Relay.UnitOfWork and Relay.Owner are filled in if they are zero. Relay.Grace
	// is half of Grace if it is 0, since a relay waits twice.
	UnitOfWork uow.Config
	Outbox     outbox.Config
	Relay      outbox.RelayConfig
	Keys       idempotency.StoreConfig
	Inbox      idempotency.InboxConfig
	Sweeper    idempotency.SweeperConfig
	// Processor configures the consumer groups. Subscribe, UnitOfWork, InTransaction, Inbox, Keys, Parking,
	// DeadLetters, Crashes, Locker (not on MySQL and MariaDB), Observer (with Telemetry) and Retention are filled in if
	// they are nil. Grace is three quarters of the service's if it is 0.
	Processor cqrs.ProcessorConfig
	// Publisher wraps what the Sender publishes to, which is the outbox. nil leaves it as it is.
	Publisher func(message.Publisher) message.Publisher
	// Telemetry makes OpenTelemetry spans and metrics of all groups and of what is sent; see cqrsotel.New.
	// nil costs nothing.
	Telemetry *cqrsotel.Telemetry
	// Migrations are applied by Open after those of the module's packages, in order: saga.Migrate, your own.
	Migrations []func(ctx context.Context, db *gorm.DB) error
	// DeadRetention is how long dead letters that hold nothing up are kept, and what operators did. 0 means 30 days,
	// negative for ever.
	DeadRetention time.Duration
	// Debezium says that Debezium reads the outbox: there is a pruner in place of the relay. It needs a Transport and
	// PostgreSQL.
	Debezium *debezium.PrunerConfig
	// NoMigrate keeps Open from touching the schema, and from setting SQLite's journal mode.
	NoMigrate bool
	// Grace bounds each stage of shutdown. 0 means 10 s.
	Grace time.Duration
	// Logger is used by everything that is given none of its own. nil discards.
	Logger *slog.Logger
}

// Validate joins every fault of the configuration, of all its parts but Processor, which Open checks.
func (c Config) Validate() error {
	faults := []error{
		c.UnitOfWork.Validate(), c.Outbox.Validate(), c.Relay.Validate(), c.Keys.Validate(), c.Sweeper.Validate(),
		c.filledIn().Validate(),
	}
	if c.Grace < 0 {
		faults = append(faults, fmt.Errorf("host: Config.Grace is %v, it may not be negative", c.Grace))
	}
	if c.Debezium != nil {
		faults = append(faults, c.Debezium.Validate())
	}
	if c.Debezium != nil && c.Transport == nil {
		faults = append(faults, errors.New("host: Config.Debezium needs a Transport to consume from"))
	}
	return errors.Join(faults...)
}

// filledIn is the configuration of the consumer groups with what Open adds and its Validate asks for.
func (c Config) filledIn() cqrs.ProcessorConfig {
	p := c.Processor
	if p.UnitOfWork == nil {
		p.UnitOfWork = (*uow.UnitOfWork)(nil)
	}
	if p.DeadLetters == nil {
		p.DeadLetters = (*gormstore.DeadLetters)(nil)
	}
	if p.Inbox == nil {
		p.Inbox = idempotency.NewInbox(c.Inbox)
	}
	return p
}

func (c Config) withDefaults() Config {
	if c.Grace == 0 {
		c.Grace = 10 * time.Second
	}
	if c.DeadRetention == 0 {
		c.DeadRetention = 30 * 24 * time.Hour
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	for _, l := range []**slog.Logger{
		&c.UnitOfWork.Logger, &c.Outbox.Logger, &c.Relay.Logger, &c.Sweeper.Logger, &c.Processor.Logger,
	} {
		if *l == nil {
			*l = c.Logger
		}
	}
	if c.Relay.Grace == 0 {
		c.Relay.Grace = c.Grace / 2 // it waits twice
	}
	return c
}
