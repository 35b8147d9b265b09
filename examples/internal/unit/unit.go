// Package unit is what the shop's services have in common: a host with a SQLite file, an HTTP server, and switches that
// take a protection away, each as a whole, to show what it is for. The services do not know of the switches, but for
// the one that concerns their own statements.
package unit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/glebarez/sqlite"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/host"
	"github.com/surge-go/surge/cqrs/localbus"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
)

// Unsafe says which protections are off. The zero value is a service as it should be.
type Unsafe struct {
	Stock       bool // read, decide, write back
	Outbox      bool // publish after the commit, from memory
	Idempotency bool // no keys, no inbox, no dedupe
}

// Config configures a [Unit].
type Config struct {
	Name    string        // of the service and of its consumer group; required
	Path    string        // of its SQLite file; required
	Bus     *localbus.Bus // required
	Catalog *cqrs.Catalog // required
	Addr    string        // where it serves HTTP; "" means a free port of the loopback interface
	Batch   int           // callers, messages and outbox rows that share a transaction or a call; 0 means the defaults
	Unsafe  Unsafe
	Logger  *slog.Logger // nil discards
	// Migrations make the service's own tables.
	Migrations []func(ctx context.Context, db *gorm.DB) error
}

// Unit is one service and its file. Register handlers with the embedded Service.
type Unit struct {
	*host.Service

	cfg      Config
	cable    *cable
	db       *gorm.DB
	listener net.Listener
}

// Open opens the file, applies migrations and wires the service. It starts nothing, but the address is taken.
// Close what is not run.
func Open(ctx context.Context, cfg Config) (*Unit, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Logger = cfg.Logger.With("service", cfg.Name)
	u := &Unit{cfg: cfg, cable: newCable(cfg.Bus)}
	if err := u.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", cfg.Name, err), u.Close())
	}
	return u, nil
}

func (u *Unit) open(ctx context.Context) (err error) {
	dsn := u.cfg.Path + "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)"
	u.db, err = gorm.Open(sqlite.Open(dsn), &gorm.Config{Logger: logger.Discard, SkipDefaultTransaction: true})
	if err != nil {
		return err
	}
	if err := boundReaders(u.db); err != nil {
		return err
	}
	c := host.Config{
		Transport: u.cable, UnitOfWork: uow.Config{MaxShare: orElse(u.cfg.Batch, 256)},
		Relay: outbox.RelayConfig{Batch: u.cfg.Batch},
		Processor: cqrs.ProcessorConfig{
			MaxBatch: orElse(u.cfg.Batch, 256), Lanes: 2, Linger: linger(u.cfg.Batch),
			Retry: cqrs.Retry{Attempts: 20, Max: time.Second},
		},
		Migrations: u.cfg.Migrations, Grace: 5 * time.Second, Logger: u.cfg.Logger,
	}
	var naive *afterCommit
	if u.cfg.Unsafe.Outbox {
		naive = newAfterCommit(u.cable.Publisher(), u.cfg.Logger)
		c.Publisher = func(message.Publisher) message.Publisher { return naive }
	}
	if u.cfg.Unsafe.Idempotency {
		c.Processor.Inbox, c.Processor.Keys = forgetful{}, forgetful{}
	}
	if u.Service, err = host.Open(ctx, u.cfg.Name, u.db, u.cfg.Catalog, c); err != nil {
		return err
	}
	if naive != nil {
		u.Add(naive)
	}
	addr := u.cfg.Addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	u.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	return err
}

// boundReaders opens no more connections than the host keeps. Opening one costs more than most of its statements.
func boundReaders(db *gorm.DB) error {
	pool, err := db.DB()
	if err != nil {
		return err
	}
	pool.SetMaxOpenConns(16)
	return nil
}

func orElse(n, standard int) int {
	if n == 0 {
		return standard
	}
	return n
}

// Serve adds the HTTP server as the service's last part. /healthz and /readyz are added to h.
func (u *Unit) Serve(h http.Handler) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := u.Ready(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.Handle("/", h)
	u.Add(host.HTTPOn(u.listener, mux))
}

// Addr is where the unit serves HTTP.
func (u *Unit) Addr() string { return u.listener.Addr().String() }

// Unsafe says which protections are off.
func (u *Unit) Unsafe() Unsafe { return u.cfg.Unsafe }

// Logger returns the unit's logger.
func (u *Unit) Logger() *slog.Logger { return u.cfg.Logger }

// Run runs the service until ctx ends or it is killed, and closes the file.
func (u *Unit) Run(ctx context.Context) error {
	err := u.Service.Run(ctx)
	if errors.Is(err, host.ErrKilled) {
		err = nil
	}
	return errors.Join(err, u.Close())
}

// Close closes the file and gives the address up.
func (u *Unit) Close() error {
	var errs []error
	if u.listener != nil {
		if err := u.listener.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if u.db != nil {
		db, err := u.db.DB()
		if err == nil {
			err = db.Close()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// forgetful remembers neither messages nor requests.
type forgetful struct{}

// Claim implements cqrs.Inbox: everything is new.
func (forgetful) Claim(_ context.Context, _ string, ids []string) ([]bool, error) {
	fresh := make([]bool, len(ids))
	for i := range fresh {
		fresh[i] = true
	}
	return fresh, nil
}

// Unclaim implements cqrs.Inbox.
func (forgetful) Unclaim(context.Context, string, []string) error { return nil }

// Once implements cqrs.Keys: every time is the first.
func (forgetful) Once(ctx context.Context, _ any, run func(context.Context) error) error {
	return run(ctx)
}

// linger is how long a batch that has begun waits for more: a commit costs more than that.
func linger(batch int) time.Duration {
	if batch == 1 {
		return 0
	}
	return 3 * time.Millisecond
}
