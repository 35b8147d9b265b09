package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/cqrs/localbus"
	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/debezium"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// A Part is anything with a life: *saga.Engine, *effect.Runner, an [HTTP] server. Run returns once all its
// goroutines have ended: nil when ctx has ended or its work is done, else what went wrong, which stops the service. A
// panic and a runtime.Goexit are a [cqrs.ErrPanic].
type Part interface {
	Run(ctx context.Context) error
}

// A Service is one deployable unit: a database, an outbox, a consumer group and what it serves.
// Its fields are set by Open; do not replace them. It is safe for concurrent use.
type Service struct {
	Processor   *cqrs.Processor        // the group named after the service: commands and events
	Sender      *cqrs.Sender           // into the outbox
	Work        *uow.UnitOfWork        // every writer of the database should use it
	Keys        *idempotency.GormStore // for idempotency.ForCommands, MiddlewareTx and DoTx
	Outbox      *outbox.Outbox         //
	Relay       *outbox.Relay          // nil with Config.Debezium
	Pruner      *debezium.Pruner       // nil without
	Parking     *gormstore.Parking     //
	DeadLetters *gormstore.DeadLetters // and what operators do with them
	Effects     *gormstore.Effects     // for effect.New

	name      string
	db        *gorm.DB
	cfg       Config
	transport Transport
	own       *localbus.Bus // nil if the transport was given
	inbox     *idempotency.Inbox

	mu     sync.Mutex
	groups []*cqrs.Processor
	parts  []Part
	faults []error
	life   atomic.Pointer[life] // nil unless it runs
	killed chan struct{}
}

// Open checks the configuration and the database, and applies the packages' migrations. On SQLite it turns on
// write-ahead logging. It starts nothing, and leaves db to the caller to close.
func Open(ctx context.Context, name string, db *gorm.DB, c *cqrs.Catalog, cfg Config) (*Service, error) {
	if name == "" || db == nil || c == nil {
		return nil, errors.New("host: Open needs a name, a database and a catalog")
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Service{name: name, db: db, cfg: cfg.withDefaults(), transport: cfg.Transport, killed: make(chan struct{})}
	if s.transport == nil {
		s.own = localbus.New(localbus.Config{InTransaction: uow.In, Logger: s.cfg.Logger})
		s.transport = s.own
	}
	if err := s.checkDatabase(ctx); err != nil {
		return nil, fmt.Errorf("host: open %s: %w", name, err)
	}
	if err := s.wire(c); err != nil {
		return nil, fmt.Errorf("host: open %s: %w", name, err)
	}
	return s, nil
}

func (s *Service) checkDatabase(ctx context.Context) error {
	pool, err := s.db.DB()
	if err != nil {
		return err
	}
	if err := pool.PingContext(ctx); err != nil {
		return err
	}
	if s.db.Name() == "sqlite" {
		pool.SetMaxIdleConns(16) // database/sql keeps 2, and to open one costs more than most statements
	}
	if s.cfg.NoMigrate {
		return nil
	}
	if s.db.Name() == "sqlite" {
		if err := s.db.WithContext(ctx).Exec("PRAGMA journal_mode=WAL").Error; err != nil {
			return fmt.Errorf("set the journal mode: %w", err)
		}
	}
	for _, migrate := range append([]func(context.Context, *gorm.DB) error{
		outbox.Migrate, idempotency.Migrate, gormstore.Migrate,
	}, s.cfg.Migrations...) {
		if err := migrate(ctx, s.db); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) wire(c *cqrs.Catalog) (err error) {
	if s.Work, err = uow.New(s.db, s.cfg.UnitOfWork); err != nil {
		return err
	}
	if s.Outbox, err = outbox.New(s.db, s.cfg.Outbox); err != nil {
		return err
	}
	var publisher message.Publisher = s.Outbox
	if s.cfg.Publisher != nil {
		publisher = s.cfg.Publisher(publisher)
	}
	if s.cfg.Telemetry != nil {
		publisher = s.cfg.Telemetry.Publisher(publisher)
	}
	if s.Sender, err = cqrs.NewSender(c, publisher, cqrs.SenderConfig{Source: s.name, Logger: s.cfg.Logger}); err != nil {
		return err
	}
	if s.Keys, err = idempotency.NewGormStore(s.Work, s.cfg.Keys); err != nil {
		return err
	}
	s.inbox = idempotency.NewInbox(s.cfg.Inbox)
	s.Parking = gormstore.NewParking()
	letters := gormstore.DeadLettersConfig{Validate: decodable(c)}
	if s.DeadLetters, err = gormstore.NewDeadLetters(s.Work, letters); err != nil {
		return err
	}
	if s.Effects, err = gormstore.NewEffects(s.Work); err != nil {
		return err
	}
	if err := s.wireRelay(); err != nil {
		return err
	}
	s.Processor, err = cqrs.NewProcessor(s.name, s.Sender, s.processorConfig())
	s.groups = []*cqrs.Processor{s.Processor}
	return err
}

func (s *Service) wireRelay() (err error) {
	if s.cfg.Debezium != nil {
		cfg := *s.cfg.Debezium
		if cfg.Logger == nil {
			cfg.Logger = s.cfg.Logger
		}
		s.Pruner, err = debezium.NewPruner(s.db, cfg)
		return err
	}
	cfg := s.cfg.Relay
	if cfg.UnitOfWork == nil { // for SQLite; elsewhere the relay does not wait for handlers
		cfg.UnitOfWork = s.Work
	}
	if cfg.Owner == "" && s.db.Name() == "sqlite" {
		cfg.Owner = s.name
	}
	s.Relay, err = outbox.NewRelay(s.Outbox, mortal{s.transport.Publisher(), s.killed}, cfg)
	return err
}

// decodable accepts an edited dead letter that the catalog can decode and validate.
func decodable(c *cqrs.Catalog) func(context.Context, *cqrs.DeadLetter) error {
	return func(_ context.Context, l *cqrs.DeadLetter) error {
		m := message.NewMessage(l.ID, l.Payload)
		for k, v := range l.Metadata {
			m.Metadata.Set(k, v)
		}
		_, err := c.Decode(&cqrs.Delivery{
			Envelope: cqrs.EnvelopeFrom(m), Topic: l.Topic, Payload: l.Payload, Metadata: m.Metadata,
		})
		return err
	}
}

func (s *Service) processorConfig() cqrs.ProcessorConfig {
	cfg := s.cfg.Processor
	if cfg.Subscribe == nil {
		cfg.Subscribe = s.transport.Subscriber
	}
	if cfg.UnitOfWork == nil {
		cfg.UnitOfWork = s.Work
	}
	if cfg.InTransaction == nil {
		cfg.InTransaction = uow.In
	}
	if cfg.Inbox == nil {
		cfg.Inbox = s.inbox
	}
	if cfg.Observer == nil && s.cfg.Telemetry != nil {
		cfg.Observer = s.cfg.Telemetry
	}
	if cfg.Keys == nil {
		cfg.Keys = s.Keys
	}
	if cfg.Parking == nil {
		cfg.Parking = s.Parking
	}
	if cfg.DeadLetters == nil {
		cfg.DeadLetters = s.DeadLetters
	}
	if cfg.Crashes == nil {
		cfg.Crashes = gormstore.Crashes{}
	}
	if cfg.Locker == nil && s.db.Name() != "mysql" { // there it stays within the process
		cfg.Locker = gormstore.Locker{}
	}
	if cfg.Grace == 0 {
		cfg.Grace = s.cfg.Grace - s.cfg.Grace/4 // what is given back must still get there
	}
	if t, ok := s.transport.(retainer); ok && cfg.Retention == nil {
		cfg.Retention = t.Retention
	}
	return cfg
}

func (s *Service) inboxRetention() time.Duration {
	if s.cfg.Inbox.Retention > 0 {
		return s.cfg.Inbox.Retention
	}
	return idempotency.DefaultInboxRetention
}

// Name returns the service's name, which is also that of its main group.
func (s *Service) Name() string { return s.name }

// DB returns the database given to Open.
func (s *Service) DB() *gorm.DB { return s.db }

// Group adds a consumer group with handlers of its own. It is named service.name. A name that is used twice or is too
// long, or a group added while the service runs, is a fault that Run reports.
func (s *Service) Group(name string) *cqrs.Processor {
	p, err := cqrs.NewProcessor(s.name+"."+name, s.Sender, s.processorConfig())
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.faults = append(s.faults, fmt.Errorf("host: group %s.%s: %w", s.name, name, err))
		p, _ = cqrs.NewProcessor(s.name, s.Sender, s.processorConfig()) // takes handlers, and does not run
		return p
	}
	s.unlessRunning("group " + p.Group())
	for _, g := range s.groups {
		if g.Group() == p.Group() {
			s.faults = append(s.faults, fmt.Errorf("host: the group %s is added twice", p.Group()))
		}
	}
	s.groups = append(s.groups, p)
	return p
}

// Add adds parts, started in order after the groups and the relay and stopped in reverse before them. A part added
// while the service runs is a fault that the next Run reports.
func (s *Service) Add(parts ...Part) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unlessRunning("part")
	for _, p := range parts {
		if p == nil {
			s.faults = append(s.faults, errors.New("host: Add was given a nil part"))
			continue
		}
		s.parts = append(s.parts, p)
	}
}

func (s *Service) unlessRunning(what string) {
	if s.life.Load() != nil {
		s.faults = append(s.faults, fmt.Errorf("host: a %s is added while %s runs", what, s.name))
	}
}

// Declare tells the transport, if it wants to know, what the service's groups read. Run does it too. It is for
// services on one in-process bus that run apart: declare all of them, with their handlers registered, before the
// first one runs, or its relay may publish before the bus knows who listens.
func (s *Service) Declare() {
	d, ok := s.transport.(declarer)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.groups {
		d.Declare(p.Group(), p.Topics()...)
	}
}
