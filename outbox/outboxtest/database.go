package outboxtest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/surge-go/surge/outbox"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

// Factory opens an empty database of its own for a test, with enough connections for 32 writers, and closes and
// drops it when the test ends.
type Factory func(t testing.TB) *gorm.DB

// File returns the name of a fresh database file, for factories of databases that are files.
func File(t testing.TB) string { return filepath.Join(t.TempDir(), "outbox.db") }

// Config returns a gorm configuration that logs nothing.
func Config() *gorm.Config { return &gorm.Config{Logger: logger.Discard} }

// Open opens a database and closes it when the test ends.
func Open(t testing.TB, dialector gorm.Dialector) *gorm.DB {
	t.Helper()
	db, err := gorm.Open(dialector, Config())
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	pool, err := db.DB()
	if err != nil {
		t.Fatalf("pool: %v", err)
	}
	t.Cleanup(func() { _ = pool.Close() })
	return db
}

// Schema creates a PostgreSQL schema with a random name and returns url with it as the search path. The schema is
// dropped when the test ends.
func Schema(t testing.TB, admin *gorm.DB, url string) string {
	t.Helper()
	name := randomName()
	exec(t, admin, "CREATE SCHEMA "+name)
	t.Cleanup(func() { _ = admin.Exec("DROP SCHEMA " + name + " CASCADE").Error })
	sep := "?"
	if strings.Contains(url, "?") {
		sep = "&"
	}
	return url + sep + "search_path=" + name
}

// Database creates a MySQL or MariaDB database with a random name and returns its name. It is dropped when the
// test ends.
func Database(t testing.TB, admin *gorm.DB) string {
	t.Helper()
	name := randomName()
	exec(t, admin, "CREATE DATABASE "+name)
	t.Cleanup(func() { _ = admin.Exec("DROP DATABASE " + name).Error })
	return name
}

func randomName() string { return "outboxtest_" + strings.ToLower(rand.Text()[:10]) }

func exec(t testing.TB, db *gorm.DB, query string, args ...any) {
	t.Helper()
	if err := db.Exec(query, args...).Error; err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func migrate(t testing.TB, db *gorm.DB) {
	t.Helper()
	if err := outbox.Migrate(context.Background(), db); err != nil {
		t.Fatalf("migrate: %v", err)
	}
}

func count(t testing.TB, db *gorm.DB, query string, args ...any) (n int64) {
	t.Helper()
	var null sql.NullInt64
	if err := db.Raw(query, args...).Row().Scan(&null); err != nil {
		t.Fatalf("%s: %v", query, fmt.Errorf("count: %w", err))
	}
	return null.Int64
}
