package gormstore_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/glebarez/sqlite"
	gomysql "github.com/go-sql-driver/mysql"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/driver/mysql"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

// A fixture is a migrated database of its own and its unit of work.
type fixture struct {
	db   *gorm.DB
	work *uow.UnitOfWork
}

// do runs fn in a transaction that must commit.
func (f *fixture) do(t *testing.T, fn func(ctx context.Context) error) {
	t.Helper()
	if err := f.work.Do(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

// everywhere runs a test on SQLite, and on the servers whose addresses are in the environment.
func everywhere(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Helper()
	for name, open := range openers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newFixture(t, open(t)))
		})
	}
}

func openers() map[string]func(*testing.T) *gorm.DB {
	return map[string]func(*testing.T) *gorm.DB{"sqlite": openSQLite, "postgres": openPostgres, "mysql": openMySQL}
}

func onSQLite(t *testing.T) *fixture {
	t.Helper()
	return newFixture(t, openSQLite(t))
}

func newFixture(t *testing.T, db *gorm.DB) *fixture {
	t.Helper()
	pool, err := db.DB()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pool.Close() })
	if err := gormstore.Migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	// Batches of 10,000 take their time on a busy machine with the race detector.
	work, err := uow.New(db, uow.Config{PartTimeout: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{db, work}
}

func openSQLite(t *testing.T) *gorm.DB {
	path := filepath.Join(t.TempDir(), "test.db")
	dsn := path + "?_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)&_pragma=busy_timeout(5000)"
	return open(t, sqlite.Open(dsn))
}

func openPostgres(t *testing.T) *gorm.DB {
	addr := os.Getenv("SURGE_TEST_POSTGRES")
	if addr == "" {
		t.Skip("SURGE_TEST_POSTGRES is not set")
	}
	name := "gormstore_" + strings.ToLower(rand.Text())
	admin := open(t, postgres.Open(addr))
	t.Cleanup(func() { closeDB(admin) })
	must(t, admin.Exec("CREATE SCHEMA "+name).Error)
	t.Cleanup(func() { must(t, admin.Exec("DROP SCHEMA "+name+" CASCADE").Error) })
	u, err := url.Parse(addr)
	must(t, err)
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	return open(t, postgres.Open(u.String()))
}

func openMySQL(t *testing.T) *gorm.DB {
	dsn := os.Getenv("SURGE_TEST_MYSQL")
	if dsn == "" {
		t.Skip("SURGE_TEST_MYSQL is not set")
	}
	name := "gormstore_" + strings.ToLower(rand.Text())
	admin := open(t, mysql.Open(dsn))
	t.Cleanup(func() { closeDB(admin) })
	must(t, admin.Exec("CREATE DATABASE "+name).Error)
	t.Cleanup(func() { must(t, admin.Exec("DROP DATABASE "+name).Error) })
	cfg, err := gomysql.ParseDSN(dsn)
	must(t, err)
	cfg.DBName = name
	return open(t, mysql.Open(cfg.FormatDSN()))
}

func open(t *testing.T, d gorm.Dialector) *gorm.DB {
	t.Helper()
	db, err := gorm.Open(d, &gorm.Config{Logger: logger.Discard})
	must(t, err)
	return db
}

func closeDB(db *gorm.DB) {
	if pool, err := db.DB(); err == nil {
		_ = pool.Close()
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// recorder is a Publisher that keeps what it is given, as an outbox would: only if the transaction commits.
type recorder struct {
	mu   sync.Mutex
	sent []string
	err  error
}

func (r *recorder) Publish(ctx context.Context, events ...any) error {
	if r.err != nil {
		return r.err
	}
	return uow.AfterCommit(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, e := range events {
			r.sent = append(r.sent, fmt.Sprint(e))
		}
	})
}

func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	sent := r.sent
	r.sent = nil
	return sent
}
