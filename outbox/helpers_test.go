package outbox_test

import (
	"context"
	"os"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/glebarez/sqlite"
	mysqldriver "github.com/go-sql-driver/mysql"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/outboxtest"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/driver/mysql"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
)

const pragmas = "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)"

func openSQLite(t testing.TB) *gorm.DB {
	t.Helper()
	return outboxtest.Open(t, sqlite.Open(outboxtest.File(t)+pragmas))
}

func openPostgres(t testing.TB) *gorm.DB {
	t.Helper()
	return openPostgresWith(t, "")
}

// openPostgresWith adds parameters to the database's URL.
func openPostgresWith(t testing.TB, parameters string) *gorm.DB {
	t.Helper()
	url := os.Getenv("SURGE_TEST_POSTGRES")
	if url == "" {
		t.Skip("SURGE_TEST_POSTGRES is not set")
	}
	admin := outboxtest.Open(t, postgres.Open(url))
	return outboxtest.Open(t, postgres.Open(outboxtest.Schema(t, admin, url)+parameters))
}

func openMySQL(t testing.TB) *gorm.DB {
	t.Helper()
	dsn := os.Getenv("SURGE_TEST_MYSQL")
	if dsn == "" {
		t.Skip("SURGE_TEST_MYSQL is not set")
	}
	admin := outboxtest.Open(t, mysql.Open(dsn))
	cfg, err := mysqldriver.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	cfg.DBName = outboxtest.Database(t, admin)
	return outboxtest.Open(t, mysql.Open(cfg.FormatDSN()))
}

var databases = map[string]outboxtest.Factory{"sqlite": openSQLite, "postgres": openPostgres, "mysql": openMySQL}

func newOutbox(tb testing.TB, db *gorm.DB) (*outbox.Outbox, *uow.UnitOfWork) {
	tb.Helper()
	if err := outbox.Migrate(context.Background(), db); err != nil {
		tb.Fatal(err)
	}
	box, err := outbox.New(db, outbox.Config{})
	if err != nil {
		tb.Fatal(err)
	}
	unit, err := uow.New(db, uow.Config{})
	if err != nil {
		tb.Fatal(err)
	}
	return box, unit
}

func newRelay(tb testing.TB, box *outbox.Outbox, to message.Publisher, cfg outbox.RelayConfig) *outbox.Relay {
	tb.Helper()
	relay, err := outbox.NewRelay(box, to, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return relay
}
