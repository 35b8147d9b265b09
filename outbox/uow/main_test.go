package uow_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/glebarez/sqlite"
	"go.uber.org/goleak"
	"gorm.io/driver/mysql"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/outbox/uow/pgxpipe"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("gorm.io/gorm/internal/lru.NewLRU[...].func1")) // of PrepareStmt
}

var quiet = &gorm.Config{Logger: logger.Discard}

// openSQLite opens a fresh file as a service would: WAL, and a flush per commit.
func openSQLite(t testing.TB) *gorm.DB {
	t.Helper()
	dsn := filepath.Join(t.TempDir(), "test.db") +
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)"
	return open(t, sqlite.Open(dsn))
}

func open(t testing.TB, d gorm.Dialector) *gorm.DB {
	t.Helper()
	db, err := gorm.Open(d, &gorm.Config{Logger: logger.Discard})
	if err != nil {
		t.Fatal(err)
	}
	pool, err := db.DB()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pool.Close() })
	return db
}

// onEach runs test on SQLite, and on the servers that are switched on, in a database of its own.
func onEach(t *testing.T, test func(t *testing.T, db *gorm.DB)) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, openSQLite(t))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, openPostgres(t))
	})
	t.Run("mysql", func(t *testing.T) {
		t.Parallel()
		test(t, openMySQL(t))
	})
}

func openPostgres(t testing.TB) *gorm.DB {
	t.Helper()
	url := os.Getenv("SURGE_TEST_POSTGRES")
	if url == "" {
		t.Skip("SURGE_TEST_POSTGRES is not set")
	}
	name := fmt.Sprintf("uow_%x", rand.Uint64())
	server := open(t, postgres.Open(url))
	exec(t, server, "CREATE SCHEMA "+name)
	t.Cleanup(func() { server.Exec("DROP SCHEMA " + name + " CASCADE") })
	return open(t, postgres.Open(url+"&search_path="+name))
}

func openMySQL(t testing.TB) *gorm.DB {
	t.Helper()
	dsn := os.Getenv("SURGE_TEST_MYSQL")
	if dsn == "" {
		t.Skip("SURGE_TEST_MYSQL is not set")
	}
	name := fmt.Sprintf("uow_%x", rand.Uint64())
	server := open(t, mysql.Open(dsn))
	exec(t, server, "CREATE DATABASE "+name)
	t.Cleanup(func() { server.Exec("DROP DATABASE " + name) })
	slash, question := strings.LastIndex(dsn, "/"), strings.LastIndex(dsn, "?")
	return open(t, mysql.Open(dsn[:slash+1]+name+dsn[question:]))
}

func exec(t testing.TB, db *gorm.DB, query string, args ...any) {
	t.Helper()
	if err := db.Exec(query, args...).Error; err != nil {
		t.Fatal(query, err)
	}
}

func count(t testing.TB, db *gorm.DB, where string, args ...any) int {
	t.Helper()
	var n int
	if err := db.Raw("SELECT count(*) FROM items WHERE "+where, args...).Row().Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// unit makes a unit of work over db, with a pipeline where there can be one, and a table items(id, n).
func unit(t testing.TB, db *gorm.DB, cfg uow.Config) *uow.UnitOfWork {
	t.Helper()
	exec(t, db, "CREATE TABLE items (id INTEGER PRIMARY KEY, n INTEGER NOT NULL DEFAULT 0)")
	if db.Name() == "postgres" {
		cfg.Pipeline = pgxpipe.Pipeline{}
	}
	u, err := uow.New(db, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

const insertItem = "INSERT INTO items (id) VALUES (?)"

func insert(ctx context.Context, id int) error { return uow.DB(ctx).Exec(insertItem, id).Error }

// together calls Do for each of fns and sees to it that they share a transaction: the first to run holds the unit
// of work's only writer until all others wait for it.
func together(t testing.TB, u *uow.UnitOfWork, fns ...func(ctx context.Context) error) []error {
	t.Helper()
	errs := make([]error, len(fns))
	done := make(chan int, len(fns))
	release := holdWriter(t, u)
	for i, fn := range fns {
		waiting := uow.Waiting(u)
		go func() {
			defer func() { done <- i }() // also after a Goexit
			defer func() {
				if v := recover(); v != nil {
					errs[i] = fmt.Errorf("panicked: %v", v)
				}
			}()
			errs[i] = u.Do(t.Context(), fn)
		}()
		for uow.Waiting(u) == waiting { // until it queues, so that the order is the order of fns
		}
	}
	release()
	for range fns {
		<-done
	}
	return errs
}

// holdWriter occupies a writer until the returned function is called.
func holdWriter(t testing.TB, u *uow.UnitOfWork) (release func()) {
	t.Helper()
	started, stop, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- u.Do(t.Context(), func(context.Context) error {
			close(started)
			<-stop
			return nil
		})
	}()
	<-started
	return func() {
		close(stop)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
