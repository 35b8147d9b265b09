// Package testdb opens databases for the tests of package idempotency: SQLite always, PostgreSQL and MariaDB when
// the environment names them. Only tests import it.
package testdb

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/glebarez/sqlite"
	driver "github.com/go-sql-driver/mysql"
	"gorm.io/driver/mysql"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/surge-go/surge/idempotency"
)

// Dialects are the names that Open knows.
var Dialects = []string{"sqlite", "postgres", "mysql"}

// Open returns a database of its own for t, with the package's tables, and the means to open it once more
// (as another process would). It skips t when the dialect's server is not configured.
func Open(t testing.TB, dialect string) (db *gorm.DB, again func() *gorm.DB) {
	t.Helper()
	dial := dialler(t, dialect)
	again = func() *gorm.DB { return connect(t, dial()) }
	db = again()
	if err := idempotency.Migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	return db, again
}

func dialler(t testing.TB, dialect string) func() gorm.Dialector {
	name := fmt.Sprintf("idem_%016x", rand.Uint64())
	switch dialect {
	case "sqlite":
		path := filepath.Join(t.TempDir(), "test.db")
		const pragmas = "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)"
		return func() gorm.Dialector { return sqlite.Open(path + pragmas) }
	case "postgres":
		return dialPostgres(t, need(t, "SURGE_TEST_POSTGRES"), name)
	default:
		return dialMySQL(t, need(t, "SURGE_TEST_MYSQL"), name)
	}
}

func need(t testing.TB, name string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		t.Skipf("%s is not set: no server to test on", name)
	}
	return v
}

func dialPostgres(t testing.TB, dsn, schema string) func() gorm.Dialector {
	t.Helper()
	admin := connect(t, postgres.Open(dsn))
	exec(t, admin, "CREATE SCHEMA "+schema)
	t.Cleanup(func() { exec(t, admin, "DROP SCHEMA "+schema+" CASCADE") })
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return func() gorm.Dialector { return postgres.Open(u.String()) }
}

func dialMySQL(t testing.TB, dsn, name string) func() gorm.Dialector {
	t.Helper()
	admin := connect(t, mysql.Open(dsn))
	exec(t, admin, "CREATE DATABASE "+name)
	t.Cleanup(func() { exec(t, admin, "DROP DATABASE "+name) })
	cfg, err := driver.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	cfg.DBName = name
	return func() gorm.Dialector { return mysql.Open(cfg.FormatDSN()) }
}

func connect(t testing.TB, d gorm.Dialector) *gorm.DB {
	t.Helper()
	db, err := gorm.Open(d, &gorm.Config{SkipDefaultTransaction: true, Logger: logger.Discard})
	if err != nil {
		t.Fatal(err)
	}
	pool, err := db.DB()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closePool(t, pool) })
	return db
}

func closePool(t testing.TB, pool *sql.DB) {
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
}

func exec(t testing.TB, db *gorm.DB, query string) {
	t.Helper()
	if err := db.Exec(query).Error; err != nil {
		t.Error(err)
	}
}
