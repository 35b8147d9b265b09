package host_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	gomysql "github.com/go-sql-driver/mysql"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/host"
	"github.com/surge-go/surge/cqrs/kafkabus"
	"github.com/surge-go/surge/cqrs/localbus"
	"github.com/surge-go/surge/outbox/debezium"
	"gorm.io/driver/mysql"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

// The same service, with the same handlers, on the servers that are in the environment: it survives a crash.
func TestOnServers(t *testing.T) {
	t.Parallel()
	for dbName, database := range map[string]func(*testing.T) func() *gorm.DB{
		"postgres": postgresDB, "mysql": mysqlDB,
	} {
		for busName, transport := range map[string]func(*testing.T, string) host.Transport{
			"localbus": localTransport, "kafka": kafkaTransport,
		} {
			t.Run(dbName+"/"+busName, func(t *testing.T) {
				t.Parallel()
				reopen := database(t)
				name := "host" + strings.ToLower(rand.Text()[:8])
				onServers(t, name, reopen, transport(t, name+".events"))
			})
		}
	}
}

func onServers(t *testing.T, name string, reopen func() *gorm.DB, transport host.Transport) {
	events := cqrs.NewCatalog(
		cqrs.Event[orderPlaced]{Name: name + ".placed", Key: func(e orderPlaced) string { return e.ID }})
	start := func() (*host.Service, <-chan string) {
		svc, err := host.Open(t.Context(), name, reopen(), events, host.Config{Transport: transport})
		must(t, err)
		must(t, svc.DB().AutoMigrate(&order{}, &seen{}))
		place(svc)
		return svc, watch(svc.Processor)
	}
	svc, told := start()
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(t.Context()) }()
	const n = 200
	var callers sync.WaitGroup
	for c := range 8 {
		callers.Go(func() {
			for i := range n / 8 {
				if _, err := cqrs.Execute(t.Context(), svc.Processor, placeOrder{ID: fmt.Sprint(c, "-", i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	callers.Wait()
	receive(t, told)
	svc.Kill()
	receive(t, ended)

	svc, _ = start()
	stop := run(t, svc)
	eventually(t, "every event is handled", func() bool {
		var rows int64
		must(t, svc.DB().Model(&seen{}).Count(&rows).Error)
		return rows == n
	})
	must(t, stop())
	var doubled int64
	must(t, svc.DB().Model(&seen{}).Where("n<>1").Count(&doubled).Error)
	if doubled != 0 {
		t.Errorf("%d events were handled twice", doubled)
	}
}

func localTransport(t *testing.T, _ string) host.Transport {
	bus := localbus.New(localbus.Config{})
	t.Cleanup(func() { must(t, bus.Close()) })
	return bus
}

func kafkaTransport(t *testing.T, topic string) host.Transport {
	brokers := os.Getenv("SURGE_TEST_KAFKA")
	if brokers == "" {
		t.Skip("SURGE_TEST_KAFKA is not set")
	}
	bus, err := kafkabus.New(strings.Split(brokers, ","), kafkabus.Config{})
	must(t, err)
	t.Cleanup(func() { must(t, bus.Close()) })
	must(t, bus.CreateTopics(t.Context(), kafkabus.Topic{Name: topic, Partitions: 2}))
	return bus
}

// opener returns a function that opens the same database again, with a pool of its own, as a restart does.
func opener(t *testing.T, d func() gorm.Dialector) func() *gorm.DB {
	return func() *gorm.DB {
		t.Helper()
		db, err := gorm.Open(d(), &gorm.Config{Logger: logger.Discard})
		must(t, err)
		t.Cleanup(func() {
			if pool, err := db.DB(); err == nil {
				_ = pool.Close()
			}
		})
		return db
	}
}

func postgresDB(t *testing.T) func() *gorm.DB {
	addr := os.Getenv("SURGE_TEST_POSTGRES")
	if addr == "" {
		t.Skip("SURGE_TEST_POSTGRES is not set")
	}
	schema := "host_" + strings.ToLower(rand.Text())
	admin := opener(t, func() gorm.Dialector { return postgres.Open(addr) })()
	must(t, admin.Exec("CREATE SCHEMA "+schema).Error)
	t.Cleanup(func() {
		must(t, admin.WithContext(context.Background()).Exec("DROP SCHEMA "+schema+" CASCADE").Error)
	})
	u, err := url.Parse(addr)
	must(t, err)
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return opener(t, func() gorm.Dialector { return postgres.Open(u.String()) })
}

func mysqlDB(t *testing.T) func() *gorm.DB {
	dsn := os.Getenv("SURGE_TEST_MYSQL")
	if dsn == "" {
		t.Skip("SURGE_TEST_MYSQL is not set")
	}
	name := "host_" + strings.ToLower(rand.Text())
	admin := opener(t, func() gorm.Dialector { return mysql.Open(dsn) })()
	must(t, admin.Exec("CREATE DATABASE "+name).Error)
	t.Cleanup(func() { must(t, admin.WithContext(context.Background()).Exec("DROP DATABASE "+name).Error) })
	cfg, err := gomysql.ParseDSN(dsn)
	must(t, err)
	cfg.DBName = name
	return opener(t, func() gorm.Dialector { return mysql.Open(cfg.FormatDSN()) })
}

// Where Debezium reads the outbox there is no relay, and readiness asks the pruner.
func TestDebeziumNeedsNoRelay(t *testing.T) {
	t.Parallel()
	b := newBroker(func(string) {})
	cfg := host.Config{Transport: b, Debezium: &debezium.PrunerConfig{Slot: "host_no_such_slot"}}
	if _, err := host.Open(t.Context(), "orders", newDB(t), catalog, cfg); !errors.Is(err, debezium.ErrDialect) {
		t.Errorf("on SQLite: %v", err)
	}
	svc := open(t, "orders", postgresDB(t)(), cfg)
	place(svc)
	_, err := cqrs.Execute(t.Context(), svc.Processor, placeOrder{ID: "o-1"})
	must(t, err)
	stop := run(t, svc)
	eventually(t, "not ready", func() bool { return errors.Is(svc.Ready(t.Context()), debezium.ErrNoSlot) })
	must(t, stop())
	stats, err := svc.Outbox.Stats(t.Context())
	if err != nil || stats.Depth != 1 || b.published() != 0 || svc.Relay != nil {
		t.Fatalf("%d rows, %d published, %v", stats.Depth, b.published(), err)
	}
}
