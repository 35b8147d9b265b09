package projection_test

import (
	"crypto/rand"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/glebarez/sqlite"
	gomysql "github.com/go-sql-driver/mysql"
	"gorm.io/driver/mysql"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
	"pgregory.net/rapid"
)

// everywhere runs a test on SQLite, and on the servers whose addresses are in the environment.
func everywhere(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	for name, open := range openers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newWorld(t, open(t)))
		})
	}
}

// everywhereRapid checks a property in a new database each time.
func everywhereRapid(t *testing.T, name string, property func(rt *rapid.T, w *world)) {
	t.Helper()
	for db, open := range openers() {
		t.Run(name+"/"+db, func(t *testing.T) {
			t.Parallel()
			checks := 0
			rapid.Check(t, func(rt *rapid.T) {
				if checks++; db != "sqlite" && checks > 4 {
					return // a server takes a second for a database
				}
				property(rt, newWorld(t, open(t)))
			})
		})
	}
}

func openers() map[string]func(testing.TB) *gorm.DB {
	return map[string]func(testing.TB) *gorm.DB{"sqlite": openSQLite, "postgres": openPostgres, "mysql": openMySQL}
}

func openSQLite(t testing.TB) *gorm.DB {
	path := filepath.Join(t.TempDir(), "test.db")
	return open(t, sqlite.Open(path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)&_pragma=busy_timeout(5000)"))
}

func openPostgres(t testing.TB) *gorm.DB {
	addr := os.Getenv("SURGE_TEST_POSTGRES")
	if addr == "" {
		t.Skip("SURGE_TEST_POSTGRES is not set")
	}
	name := "projection_" + strings.ToLower(rand.Text())
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
	name := "projection_" + strings.ToLower(rand.Text())
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
	t.Cleanup(func() {
		if pool, err := db.DB(); err == nil {
			_ = pool.Close()
		}
	})
	return db
}
