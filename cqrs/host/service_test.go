package host_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/cqrs/host"
	"github.com/surge-go/surge/cqrs/localbus"
	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/debezium"

	"gorm.io/gorm"
)

func TestTheZeroConfigCarriesAnEventToItsHandler(t *testing.T) {
	t.Parallel()
	svc := open(t, "orders", newDB(t), host.Config{})
	place(svc)
	told := watch(svc.Processor)
	id, err := cqrs.Execute(t.Context(), svc.Processor, placeOrder{ID: "o-1", SKU: "hat"}) // before Run
	if err != nil || id != "o-1" {
		t.Fatalf("Execute = %q, %v", id, err)
	}
	stop := run(t, svc)
	if got := receive(t, told); got != "o-1" {
		t.Fatalf("heard of %q", got)
	}
	must(t, stop())
}

func TestRule18_ServicesOnOneBus(t *testing.T) {
	t.Parallel()
	bus := localbus.New(localbus.Config{Discard: true})
	orders := open(t, "orders", newDB(t), host.Config{Transport: bus})
	place(orders)
	stock := open(t, "stock", newDB(t), host.Config{Transport: bus})
	told := watch(stock.Processor)
	other := watch(stock.Group("projection"))
	const n = 300
	for i := range n {
		_, err := cqrs.Execute(t.Context(), orders.Processor, placeOrder{ID: fmt.Sprint(i)})
		must(t, err)
	}
	stop := run(t, orders, stock)
	for range n {
		receive(t, told)
		receive(t, other)
	}
	must(t, stop())
	must(t, bus.Close())
	var rows int64
	must(t, stock.DB().Model(&seen{}).Where("n=2").Count(&rows).Error)
	if rows != n {
		t.Fatalf("%d of %d events were handled once by each group", rows, n)
	}
}

// Services that run apart are declared first: the first one's relay then waits for the second one's group.
func TestRule18_ServicesThatRunApart(t *testing.T) {
	t.Parallel()
	bus := localbus.New(localbus.Config{})
	orders := open(t, "orders", newDB(t), host.Config{Transport: bus})
	place(orders)
	stock := open(t, "stock", newDB(t), host.Config{Transport: bus})
	told := watch(stock.Processor)
	orders.Declare()
	stock.Declare()
	_, err := cqrs.Execute(t.Context(), orders.Processor, placeOrder{ID: "o-1"})
	must(t, err)
	stopOrders := run(t, orders)
	eventually(t, "the relay publishes", func() bool { return orders.Relay.Publishing() == 1 })
	stopStock := run(t, stock)
	receive(t, told)
	must(t, stopOrders())
	must(t, stopStock())
	must(t, bus.Close())
}

func TestEventsThatNobodyHearsLeaveAndCommandsThatNobodyHandlesStay(t *testing.T) {
	t.Parallel()
	svc := open(t, "orders", newDB(t), host.Config{Relay: outbox.RelayConfig{StuckAfter: time.Nanosecond}})
	place(svc)
	_, err := cqrs.Execute(t.Context(), svc.Processor, placeOrder{ID: "o-1"})
	must(t, err)
	stop := run(t, svc)
	depth := func() int64 {
		stats, err := svc.Outbox.Stats(t.Context())
		must(t, err)
		return stats.Depth + stats.Retrying + stats.Dead
	}
	eventually(t, "the event has left", func() bool { return depth() == 0 })
	must(t, svc.Work.Do(t.Context(), func(ctx context.Context) error { return svc.Sender.Send(ctx, pack{"o-1"}) }))
	eventually(t, "the relay complains", func() bool {
		err := svc.Ready(t.Context())
		return err != nil && strings.Contains(err.Error(), "packing.commands")
	})
	if depth() != 1 {
		t.Fatalf("%d messages are kept", depth())
	}
	must(t, stop())
}

func TestOpenFaults(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for want, cfg := range map[string]host.Config{
		"Grace is -1ns":        {Grace: -1},
		"Debezium needs":       {Debezium: &debezium.PrunerConfig{}},
		"Processor":            {Processor: cqrs.ProcessorConfig{Lanes: -1}},
		"boom":                 {Migrations: []func(context.Context, *gorm.DB) error{fail}},
		"RelayConfig.Attempts": {Relay: outbox.RelayConfig{Attempts: -1}},
	} {
		if _, err := host.Open(t.Context(), "orders", db, catalog, cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	if _, err := host.Open(t.Context(), "", nil, nil, host.Config{}); err == nil {
		t.Error("Open of nothing works")
	}
	closed := openDB(t, filepath.Join(t.TempDir(), "x.db"))
	pool, err := closed.DB()
	must(t, err)
	must(t, pool.Close())
	if _, err := host.Open(t.Context(), "orders", closed, catalog, host.Config{}); err == nil {
		t.Error("Open of a closed database works")
	}
}

func fail(context.Context, *gorm.DB) error { return errBoom }

// What is wrong with the consumer groups is told with the rest, before the database is touched; what Open fills in is
// not missed.
func TestValidateKnowsTheProcessor(t *testing.T) {
	t.Parallel()
	err := host.Config{
		Grace: -1, Inbox: idempotency.InboxConfig{Retention: time.Hour},
		Processor: cqrs.ProcessorConfig{
			Lanes: -1, MaxAge: 2 * time.Hour, Parking: gormstore.NewParking(), Crashes: gormstore.Crashes{},
		},
	}.Validate()
	for _, want := range []string{"Grace is -1ns", "Lanes is -1", "MaxAge is 2h0m0s"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	if err != nil && strings.Contains(err.Error(), "needs") {
		t.Error(err)
	}
}

func TestOpenMigratesAndSetsTheJournalMode(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	if _, err := host.Open(t.Context(), "orders", db, catalog, host.Config{NoMigrate: true}); err != nil {
		t.Fatal(err)
	}
	var tables int64
	must(t, db.Raw("SELECT COUNT(*) FROM sqlite_master").Scan(&tables).Error)
	if tables != 0 {
		t.Fatalf("NoMigrate made %d tables", tables)
	}
	own := func(_ context.Context, db *gorm.DB) error { return db.Exec("CREATE TABLE mine (id TEXT)").Error }
	open(t, "orders", db, host.Config{Migrations: []func(context.Context, *gorm.DB) error{own}})
	var mode string
	must(t, db.Raw("PRAGMA journal_mode").Scan(&mode).Error)
	if mode != "wal" || !db.Migrator().HasTable("mine") || !db.Migrator().HasTable("cqrs_parked") {
		t.Fatalf("journal mode %s", mode)
	}
}

func TestRegistrationFaultsAreReportedTogether(t *testing.T) {
	t.Parallel()
	svc := open(t, "orders", newDB(t), host.Config{})
	place(svc)
	place(svc)
	svc.Group("x")
	svc.Group("x")
	svc.Add(nil)
	err := svc.Run(t.Context())
	for _, want := range []string{"placeOrder", "orders.x is added twice", "nil part"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in %v", want, err)
		}
	}
	if err := host.Run(t.Context()); err == nil {
		t.Error("Run of no service works")
	}
}

func TestReady(t *testing.T) {
	t.Parallel()
	svc := open(t, "orders", newDB(t), host.Config{})
	if err := svc.Ready(t.Context()); !errors.Is(err, host.ErrNotRunning) {
		t.Fatalf("before Run: %v", err)
	}
	stop := run(t, svc)
	eventually(t, "ready", func() bool { return svc.Ready(t.Context()) == nil })
	must(t, stop())
	if err := svc.Ready(t.Context()); !errors.Is(err, host.ErrNotRunning) {
		t.Fatalf("after Run: %v", err)
	}
}

func TestThePublisherCanBeWrapped(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var topics []string
	svc := open(t, "orders", newDB(t), host.Config{Publisher: func(next message.Publisher) message.Publisher {
		return spy{next, func(topic string) { mu.Lock(); topics = append(topics, topic); mu.Unlock() }}
	}})
	place(svc)
	_, err := cqrs.Execute(t.Context(), svc.Processor, placeOrder{ID: "o-1"})
	must(t, err)
	if strings.Join(topics, " ") != "orders.events" {
		t.Fatalf("topics %q", topics)
	}
}

type spy struct {
	message.Publisher
	see func(string)
}

func (s spy) Publish(topic string, msgs ...*message.Message) error {
	s.see(topic)
	return s.Publisher.Publish(topic, msgs...)
}

// A message that fails for good becomes a dead letter; an operator mends it, and it runs.
func TestRule35_ADeadLetterIsEditedAndReplayed(t *testing.T) {
	t.Parallel()
	svc := open(t, "orders", newDB(t), host.Config{
		Processor: cqrs.ProcessorConfig{Retry: cqrs.Retry{Attempts: 2, Min: time.Millisecond, Max: time.Millisecond}},
	})
	handled := make(chan string, 10)
	cqrs.On(svc.Processor, func(_ context.Context, e orderPlaced) error {
		if e.SKU == "broken" {
			return errBoom
		}
		handled <- e.SKU
		return nil
	})
	stop := run(t, svc)
	must(t, svc.Work.Do(t.Context(), func(ctx context.Context) error {
		return svc.Sender.Publish(ctx, orderPlaced{"o-1", "broken"})
	}))
	var dead []gormstore.Letter
	eventually(t, "a dead letter", func() bool {
		var err error
		dead, err = svc.DeadLetters.List(t.Context(), gormstore.DeadFilter{})
		return err == nil && len(dead) == 1
	})
	ctx := gormstore.By(t.Context(), "ada", "the SKU was wrong")
	if err := svc.DeadLetters.Edit(ctx, "orders", dead[0].ID, []byte(`{"SKU":`)); err == nil {
		t.Fatal("a payload that cannot be decoded was accepted")
	}
	must(t, svc.DeadLetters.Edit(ctx, "orders", dead[0].ID, []byte(`{"ID":"o-1","SKU":"hat"}`)))
	if _, err := svc.Processor.Replay(ctx, dead[0].ID); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, handled); got != "hat" {
		t.Fatalf("handled %q", got)
	}
	eventually(t, "the letter is resolved", func() bool {
		left, err := svc.DeadLetters.List(t.Context(), gormstore.DeadFilter{})
		return err == nil && len(left) == 0
	})
	must(t, stop())
}
