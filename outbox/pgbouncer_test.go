package outbox_test

import (
	"context"
	"crypto/rand"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/outboxtest"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/outbox/uow/pgxpipe"
)

// pooled makes a PostgreSQL database and returns its URL behind PgBouncer, which gives each transaction another of few
// connections.
func pooled(t testing.TB) string {
	t.Helper()
	via := os.Getenv("SURGE_TEST_PGBOUNCER")
	if via == "" {
		t.Skip("SURGE_TEST_PGBOUNCER is not set")
	}
	u, err := url.Parse(via)
	if err != nil {
		t.Fatal(err)
	}
	admin := outboxtest.Open(t, postgres.Open(via))
	name := "surge_" + strings.ToLower(rand.Text()[:10])
	if err := admin.Exec("CREATE DATABASE " + name).Error; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = admin.Exec("DROP DATABASE " + name + " WITH (FORCE)").Error }) // the pooler is still connected
	u.Path = "/" + name
	return u.String()
}

// crowd calls do n times at once.
func crowd(t *testing.T, n int, do func(i int) error) {
	t.Helper()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			if err := do(i); err != nil {
				t.Error(i, err)
			}
		})
	}
	all.Wait()
}

func TestConformancePgBouncer(t *testing.T) {
	t.Parallel()
	outboxtest.Run(t, func(t testing.TB) *gorm.DB { return outboxtest.Open(t, postgres.Open(pooled(t))) })
}

// A lock of a session would be nobody's behind a pooler: neither kept nor given back.
func TestMigrateBehindAPooler(t *testing.T) {
	t.Parallel()
	at := pooled(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	crowd(t, 16, func(int) error { return outbox.Migrate(ctx, outboxtest.Open(t, postgres.Open(at))) })
	var left int
	db := outboxtest.Open(t, postgres.Open(at))
	err := db.Raw(`SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`).Row().Scan(&left)
	if err != nil || left != 0 {
		t.Errorf("%d locks are left, %v", left, err)
	}
}

func TestPipelineBehindAPooler(t *testing.T) {
	t.Parallel()
	db := outboxtest.Open(t, postgres.Open(pooled(t)))
	box, _ := newOutbox(t, db)
	unit, err := uow.New(db, uow.Config{Pipeline: pgxpipe.Pipeline{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Exec("CREATE TABLE orders (id BIGINT PRIMARY KEY)").Error; err != nil {
		t.Fatal(err)
	}
	const callers = 64
	crowd(t, callers, func(i int) error {
		return unit.Do(t.Context(), func(ctx context.Context) error {
			if err := uow.Queue(ctx, "INSERT INTO orders (id) VALUES (?)", i); err != nil {
				return err
			}
			m := message.NewMessage(strconv.Itoa(i), nil)
			m.SetContext(ctx)
			return box.Publish("orders", m)
		})
	})
	var orders, messages int
	err = db.Raw("SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM outbox)").Row().Scan(&orders, &messages)
	if err != nil || orders != callers || messages != callers {
		t.Errorf("%d orders and %d messages, want %d; %v", orders, messages, callers, err)
	}
}
