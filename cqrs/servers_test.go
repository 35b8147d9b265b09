package cqrs_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/glebarez/sqlite"
	gomysql "github.com/go-sql-driver/mysql"
	"gorm.io/driver/mysql"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox/uow"
)

// A hung handler's transaction is closed to it on every database, and its neighbors commit in theirs.
func TestRule06_AHungHandlerOnRealDatabases(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T) *gorm.DB{
		"sqlite": onFile, "postgres": onPostgres, "mysql": onMySQL,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hangsOn(t, open(t))
		})
	}
}

func hangsOn(t *testing.T, db *gorm.DB) {
	ctx := t.Context()
	must(t, errors.Join(idempotency.Migrate(ctx, db), gormstore.Migrate(ctx, db), db.AutoMigrate(&line{})))
	work, err := uow.New(db, uow.Config{})
	must(t, err)
	dead, err := gormstore.NewDeadLetters(work, gormstore.DeadLettersConfig{})
	must(t, err)
	b := newDB() // as a bus only
	s := newService(t, b, catalog(), cqrs.ProcessorConfig{
		Subscribe: b.subscriber, UnitOfWork: work, InTransaction: uow.In, Lanes: 1,
		Inbox: idempotency.NewInbox(idempotency.InboxConfig{}), Parking: gormstore.NewParking(), DeadLetters: dead,
		Crashes: gormstore.Crashes{}, HandlerTimeout: 10 * time.Second, Poll: 20 * time.Millisecond,
		Retry: cqrs.Retry{Min: time.Millisecond, Max: 50 * time.Millisecond},
	})
	release, late := make(chan struct{}), make(chan error, 1)
	first := true
	cqrs.On(s.p, func(ctx context.Context, n note) error {
		insert := func(text string) error { return uow.DB(ctx).Create(&line{Key: n.Order, Text: text}).Error }
		if n.Text == "7" && first {
			first = false
			if err := insert("before it hung"); err != nil {
				return err
			}
			<-release
			late <- insert("after it hung")
			return nil
		}
		return insert(n.Text)
	})
	s.run()
	<-s.p.Running()
	var all []*message.Message
	for i := range 30 {
		all = append(all, noteMsg(fmt.Sprint(i), fmt.Sprint("o", i%10), fmt.Sprint(i)))
	}
	s.deliver("shop.commands", all...)
	for _, m := range all {
		<-m.Acked()
	}
	lines := func() (n int64) {
		must(t, work.Do(ctx, func(ctx context.Context) error { n = count(uow.DB(ctx), "1=1"); return nil }))
		return n
	}
	if got := lines(); got != 27 { // all but the key's, of which one hangs and two wait
		t.Errorf("%d effects beside the hung handler, want 27", got)
	}
	close(release)
	if err := <-late; !errors.Is(err, uow.ErrNoTransaction) && !errors.Is(err, uow.ErrDoomed) {
		t.Errorf("a statement after the end of its transaction: %v", err)
	}
	for end := time.Now().Add(30 * time.Second); lines() < 30 && time.Now().Before(end); {
		<-time.After(10 * time.Millisecond)
	}
	must(t, work.Do(ctx, func(ctx context.Context) error {
		if n := count(uow.DB(ctx), "text LIKE '%hung'"); n != 0 {
			t.Errorf("%d rows of the dead transaction", n)
		}
		return nil
	}))
	if st := s.p.Stats(); lines() != 30 || st.Failed != 1 || st.Hung != 0 {
		t.Errorf("%d effects, stats %+v", lines(), st)
	}
}

func onFile(t *testing.T) *gorm.DB {
	file := filepath.Join(t.TempDir(), "shop.db")
	return opened(t, sqlite.Open(file+"?_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_pragma=busy_timeout(5000)"))
}

func onPostgres(t *testing.T) *gorm.DB {
	addr := os.Getenv("SURGE_TEST_POSTGRES")
	if addr == "" {
		t.Skip("SURGE_TEST_POSTGRES is not set")
	}
	admin, name := opened(t, postgres.Open(addr)), "cqrs_"+strings.ToLower(rand.Text())
	must(t, admin.Exec("CREATE SCHEMA "+name).Error)
	t.Cleanup(func() { must(t, admin.Exec("DROP SCHEMA "+name+" CASCADE").Error) })
	u, err := url.Parse(addr)
	must(t, err)
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	return opened(t, postgres.Open(u.String()))
}

func onMySQL(t *testing.T) *gorm.DB {
	dsn := os.Getenv("SURGE_TEST_MYSQL")
	if dsn == "" {
		t.Skip("SURGE_TEST_MYSQL is not set")
	}
	admin, name := opened(t, mysql.Open(dsn)), "cqrs_"+strings.ToLower(rand.Text())
	must(t, admin.Exec("CREATE DATABASE "+name).Error)
	t.Cleanup(func() { must(t, admin.Exec("DROP DATABASE "+name).Error) })
	cfg, err := gomysql.ParseDSN(dsn)
	must(t, err)
	cfg.DBName = name
	return opened(t, mysql.Open(cfg.FormatDSN()))
}

func opened(t *testing.T, d gorm.Dialector) *gorm.DB {
	t.Helper()
	db, err := gorm.Open(d, &gorm.Config{Logger: logger.Discard})
	must(t, err)
	pool, err := db.DB()
	must(t, err)
	t.Cleanup(func() { _ = pool.Close() })
	return db
}
