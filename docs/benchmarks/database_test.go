package benchmarks_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"strings"
	"testing"

	"github.com/glebarez/sqlite"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/outboxtest"
)

// A database is a schema, or a file, of a benchmark's own. Its statements have a context that may end, as in a server.
type database struct {
	*gorm.DB
	pool   *sql.DB
	url    string // of PostgreSQL, with the schema as its search path
	schema string // and what the connections are called
}

// openPostgres makes a schema that is dropped when b ends.
func openPostgres(b *testing.B) *database {
	b.Helper()
	url := need(b, "SURGE_TEST_POSTGRES")
	url = outboxtest.Schema(b, outboxtest.Open(b, postgres.Open(url)), url)
	schema := url[strings.LastIndex(url, "=")+1:]
	url += "&application_name=" + schema
	d := opened(b, outboxtest.Open(b, postgres.Open(url)))
	d.url, d.schema = url, schema
	return d
}

// openSQLite makes a file in which every commit waits for the disk.
func openSQLite(b *testing.B) *database {
	b.Helper()
	file := filepath.Join(b.TempDir(), "bench.db")
	const pragmas = "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)"
	return opened(b, outboxtest.Open(b, sqlite.Open(file+pragmas)))
}

func opened(b *testing.B, db *gorm.DB) *database {
	b.Helper()
	pool, err := db.DB()
	must(b, err)
	return &database{DB: db.WithContext(b.Context()), pool: pool}
}

// connect leaves the database with n open connections, and no more.
func (d *database) connect(b *testing.B, n int) {
	b.Helper()
	d.pool.SetMaxOpenConns(n)
	d.pool.SetMaxIdleConns(n)
	conns := make([]*sql.Conn, n)
	for i := range conns {
		c, err := d.pool.Conn(context.Background())
		must(b, err)
		conns[i] = c
	}
	for _, c := range conns {
		must(b, c.Close())
	}
}

func (d *database) exec(b *testing.B, statements ...string) {
	b.Helper()
	for _, s := range statements {
		must(b, d.Exec(s).Error)
	}
}

// wants fails b unless the query counts n.
func (d *database) wants(b *testing.B, n int, query string) {
	b.Helper()
	var got int
	must(b, d.Raw(query).Scan(&got).Error)
	if got != n {
		b.Fatalf("%s: %d, want %d", query, got, n)
	}
}

// empty deletes all rows of tables.
func (d *database) empty(b *testing.B, tables ...string) {
	b.Helper()
	for _, t := range tables {
		if d.Name() == "postgres" {
			d.exec(b, "TRUNCATE "+t)
		} else {
			d.exec(b, "DELETE FROM "+t)
		}
	}
}
