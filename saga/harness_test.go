package saga_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/glebarez/sqlite"
	gomysql "github.com/go-sql-driver/mysql"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/host"
	"github.com/surge-go/surge/cqrs/localbus"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/internal/fulfil"
	"gorm.io/driver/mysql"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

// openers open an empty database of their own, and skip without its server.
var openers = map[string]func(testing.TB) *gorm.DB{
	"sqlite": openSQLite, "postgres": openPostgres, "mysql": openMySQL,
}

func openSQLite(t testing.TB) *gorm.DB {
	dsn := filepath.Join(t.TempDir(), "test.db") +
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)&_pragma=busy_timeout(5000)"
	return open(t, sqlite.Open(dsn))
}

func openPostgres(t testing.TB) *gorm.DB {
	addr := os.Getenv("SURGE_TEST_POSTGRES")
	if addr == "" {
		t.Skip("SURGE_TEST_POSTGRES is not set")
	}
	name := "saga_" + strings.ToLower(rand.Text())
	admin := open(t, postgres.Open(addr))
	must(t, admin.Exec("CREATE SCHEMA "+name).Error)
	t.Cleanup(func() { must(t, admin.Exec("DROP SCHEMA "+name+" CASCADE").Error) })
	u, err := url.Parse(addr)
	must(t, err)
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	return open(t, postgres.Open(u.String()))
}

func openMySQL(t testing.TB) *gorm.DB {
	dsn := os.Getenv("SURGE_TEST_MYSQL")
	if dsn == "" {
		t.Skip("SURGE_TEST_MYSQL is not set")
	}
	name := "saga_" + strings.ToLower(rand.Text())
	admin := open(t, mysql.Open(dsn))
	must(t, admin.Exec("CREATE DATABASE "+name).Error)
	t.Cleanup(func() { must(t, admin.Exec("DROP DATABASE "+name).Error) })
	cfg, err := gomysql.ParseDSN(dsn)
	must(t, err)
	cfg.DBName = name
	return open(t, mysql.Open(cfg.FormatDSN()))
}

func open(t testing.TB, d gorm.Dialector) *gorm.DB {
	t.Helper()
	db, err := gorm.Open(d, &gorm.Config{Logger: logger.Discard})
	must(t, err)
	pool, err := db.DB()
	must(t, err)
	t.Cleanup(func() { _ = pool.Close() })
	return db
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A shop is two services on databases of their own: shipping hosts the sagas, world does all the rest.
type shop struct {
	t               testing.TB
	bus             *localbus.Bus
	shipping, world *host.Service
	engine          *saga.Engine
	orders          *saga.Saga[fulfil.State]

	mu     sync.Mutex
	faults map[string]error // by order and command
}

type shopConfig struct {
	engine saga.EngineConfig
	host   host.Config
	def    *saga.Definition[fulfil.State]
}

// newShop wires the services; run starts them.
func newShop(t testing.TB, dialect string, cfg shopConfig) *shop {
	t.Helper()
	s := &shop{t: t, faults: map[string]error{}}
	s.bus = localbus.New(localbus.Config{InTransaction: uow.In, Discard: true})
	t.Cleanup(func() { must(t, s.bus.Close()) })
	if cfg.def == nil {
		cfg.def = fulfil.Order
	}
	hc := cfg.host
	hc.Transport = s.bus
	if testing.Verbose() {
		hc.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil)) // services may outlive t.Output
		cfg.engine.Logger = hc.Logger
	}
	hc.Migrations = append(hc.Migrations, saga.Migrate)
	var err error
	s.shipping, err = host.Open(t.Context(), "shipping", openers[dialect](t), fulfil.Messages, hc)
	must(t, err)
	db := openers[dialect](t)
	s.world, err = host.Open(t.Context(), "world", db, fulfil.Messages, hc)
	must(t, err)
	must(t, db.Exec("CREATE TABLE effects (order_id VARCHAR(64), what VARCHAR(64), PRIMARY KEY (order_id, what))").Error)
	if cfg.engine.Poll == 0 {
		cfg.engine.Poll = 20 * time.Millisecond
	}
	s.engine, err = saga.NewEngine(s.shipping.Processor, cfg.engine)
	must(t, err)
	s.orders = saga.Register(s.engine, cfg.def)
	saga.StartOn(s.orders, fulfil.Begin)
	saga.CancelOn(s.orders, func(e fulfil.CancelWanted) (string, string) { return e.OrderID, e.Reason })
	s.shipping.Add(s.engine)
	s.participants()
	return s
}

// fail lets the named command of an order fail; nil lets it work again.
func (s *shop) fail(order, what string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[order+" "+what] = err
}

func (s *shop) fault(order, what string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults[order+" "+what]
}

func do[C cqrs.Request[R], R any](s *shop, what string, id func(C) string, r R) func(context.Context, C) (R, error) {
	return func(ctx context.Context, c C) (none R, err error) {
		if err := uow.DB(ctx).Exec("INSERT INTO effects (order_id, what) VALUES (?, ?)", id(c), what).Error; err != nil {
			return none, err
		}
		return r, s.fault(id(c), what)
	}
}

func undo[U any](s *shop, what string, id func(U) string) func(context.Context, U) error {
	return func(ctx context.Context, u U) error {
		res := uow.DB(ctx).Exec("DELETE FROM effects WHERE order_id = ? AND what = ?", id(u), what)
		if res.Error == nil && res.RowsAffected == 0 {
			return fmt.Errorf("%s %s has nothing to undo", id(u), what)
		}
		return errors.Join(res.Error, s.fault(id(u), "undo "+what))
	}
}

func (s *shop) participants() {
	p := s.world.Processor
	saga.Participant(p,
		do(s, "reserve", func(c fulfil.ReserveStock) string { return c.OrderID }, fulfil.StockReserved{ReservationID: "r"}),
		undo(s, "reserve", func(c fulfil.ReleaseStock) string { return c.OrderID }))
	saga.Participant(p,
		do(s, "authorize", func(c fulfil.AuthorizePayment) string { return c.OrderID }, fulfil.PaymentAuthorized{PaymentID: "p"}),
		undo(s, "authorize", func(c fulfil.VoidPayment) string { return c.OrderID }))
	saga.Participant(p,
		do(s, "ship", func(c fulfil.CreateShipment) string { return c.OrderID }, fulfil.ShipmentCreated{ShipmentID: "s"}),
		undo(s, "ship", func(c fulfil.CancelShipment) string { return c.OrderID }))
	done := fulfil.Done{OK: true}
	saga.Participant(p,
		do(s, "capture", func(c fulfil.CapturePayment) string { return c.OrderID }, fulfil.PaymentCaptured{Cents: 1}), saga.NoUndo)
	saga.Participant(p, do(s, "commit", func(c fulfil.CommitStock) string { return c.OrderID }, done), saga.NoUndo)
	saga.Participant(p, do(s, "confirm", func(c fulfil.ConfirmOrder) string { return c.OrderID }, done), saga.NoUndo)
	saga.Participant(p, do(s, "dispatch", func(c fulfil.DispatchShipment) string { return c.OrderID }, done), saga.NoUndo)
	saga.Participant(p, do(s, "refund", func(c fulfil.RefundPayment) string { return c.OrderID }, done), saga.NoUndo)
	saga.Participant(p, do(s, "stop", func(c fulfil.StopShipment) string { return c.OrderID }, done), saga.NoUndo)
	saga.Participant(p, do(s, "restock", func(c fulfil.Restock) string { return c.OrderID }, done), saga.NoUndo)
	saga.Participant(p, do(s, "close", func(c fulfil.CloseOrder) string { return c.OrderID }, done), saga.NoUndo)
	cqrs.On(p, func(ctx context.Context, c fulfil.RejectOrder) error {
		return uow.DB(ctx).Exec("INSERT INTO effects (order_id, what) VALUES (?, 'reject')", c.OrderID).Error
	})
}

// run runs the services until the test ends, or until stop is called.
func (s *shop) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- host.Run(ctx, s.shipping, s.world) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				s.t.Errorf("run: %v", err)
			}
		})
	}
	s.t.Cleanup(stop)
	return stop
}

func (s *shop) publish(events ...any) {
	s.t.Helper()
	must(s.t, s.world.Work.Do(s.t.Context(), func(ctx context.Context) error {
		return s.world.Sender.Publish(ctx, events...)
	}))
}

func (s *shop) place(ids ...string) {
	s.t.Helper()
	events := make([]any, len(ids))
	for i, id := range ids {
		events[i] = fulfil.Placed{OrderID: id, SKU: "hat", Cents: 100}
	}
	s.publish(events...)
}

// await waits until the order's saga is in one of the statuses.
func (s *shop) await(id string, want ...saga.Status) saga.Instance[fulfil.State] {
	s.t.Helper()
	var got saga.Instance[fulfil.State]
	var err error
	eventually(s.t, func() bool {
		got, err = s.orders.Get(s.t.Context(), id)
		for _, w := range want {
			if err == nil && got.Status == w {
				return true
			}
		}
		return false
	}, func() string { return fmt.Sprintf("order %s: got %+v, %v; want %v", id, got, err, want) })
	return got
}

// eventually looks until ok, for at most 20 s.
func eventually(t testing.TB, ok func() bool, say func() string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatal(say())
		case <-tick.C:
		}
	}
}

func (s *shop) effects(id string) string {
	s.t.Helper()
	var list []string
	must(s.t, s.world.Work.Do(s.t.Context(), func(ctx context.Context) error {
		list = nil
		return uow.DB(ctx).Raw("SELECT what FROM effects WHERE order_id = ? ORDER BY what", id).Scan(&list).Error
	}))
	return strings.Join(list, " ")
}
