package migration_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/glebarez/sqlite"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/kafkabus"
	"github.com/surge-go/surge/cqrs/localbus"
	"github.com/surge-go/surge/examples/migration"
	"github.com/surge-go/surge/outbox/uow"
)

func TestMain(m *testing.M) {
	// sarama's metrics library keeps one ticker for the life of the process.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

const (
	patience = time.Minute // bounds what a test waits for, and decides nothing
	stocked  = 10
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openDB(t *testing.T) *gorm.DB {
	t.Helper()
	dsn := filepath.Join(t.TempDir(), "orders.db") + "?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)"
	db, err := gorm.Open(sqlite.Open(dsn), &gorm.Config{Logger: logger.Discard})
	must(t, err)
	t.Cleanup(func() {
		if pool, err := db.DB(); err == nil {
			must(t, pool.Close())
		}
	})
	must(t, db.AutoMigrate(&migration.Order{}, &migration.Stock{}))
	must(t, db.Create(&migration.Stock{SKU: "hat", Units: stocked}).Error)
	return db
}

// serve runs an app until the test ends.
func serve(t *testing.T, run func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func eventually(t *testing.T, what string, ask func() (bool, string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		is, why := ask()
		if is {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never: %s: %s", what, why)
		}
	}
}

// count waits until so many orders are there, and so much stock is left.
func count(t *testing.T, db *gorm.DB, orders, units int) {
	t.Helper()
	eventually(t, "orders are placed", func() (bool, string) {
		var n int64
		var s migration.Stock
		if err := errors.Join(db.Model(&migration.Order{}).Count(&n).Error, db.First(&s, "sku = 'hat'").Error); err != nil {
			return false, err.Error()
		}
		return int(n) == orders && s.Units == units, fmt.Sprintf("%d orders, %d units", n, s.Units)
	})
}

// place sends commands until they are taken: a Router subscribes when it runs.
func place(t *testing.T, db *gorm.DB, app *migration.App) {
	t.Helper()
	for i := range 3 {
		must(t, app.Send(t.Context(), migration.PlaceOrder{ID: fmt.Sprint("o-", i), SKU: "hat"}))
	}
	count(t, db, 3, stocked-3)
}

// persistent keeps messages for who subscribes later.
func persistent(t *testing.T) *gochannel.GoChannel {
	bus := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
	t.Cleanup(func() { must(t, bus.Close()) })
	return bus
}

// twice is a broker that delivers everything twice, as brokers do now and then.
type twice struct{ message.Publisher }

func (p twice) Publish(topic string, messages ...*message.Message) error {
	return errors.Join(p.Publisher.Publish(topic, messages...), p.Publisher.Publish(topic, messages...))
}

func TestBefore(t *testing.T) {
	t.Parallel()
	db, bus := openDB(t), persistent(t)
	app, err := migration.Before(db, bus, bus)
	must(t, err)
	serve(t, app.Run)
	place(t, db, app)
}

func TestWithOutbox(t *testing.T) {
	t.Parallel()
	db, bus := openDB(t), persistent(t)
	app, err := migration.WithOutbox(t.Context(), db, bus, bus)
	must(t, err)
	serve(t, app.Run)
	place(t, db, app)
}

func TestWithInbox(t *testing.T) {
	t.Parallel()
	db, bus := openDB(t), persistent(t)
	app, err := migration.WithInbox(t.Context(), db, twice{bus}, bus)
	must(t, err)
	serve(t, app.Run)
	place(t, db, app)
	settled(t, db)
}

func TestWithResilience(t *testing.T) {
	t.Parallel()
	db, bus := openDB(t), persistent(t)
	app, err := migration.WithResilience(t.Context(), db, twice{bus}, bus)
	must(t, err)
	serve(t, app.Run)
	place(t, db, app)
	settled(t, db)
}

// settled waits until every message was seen, and looks again: what came twice had no effect.
func settled(t *testing.T, db *gorm.DB) {
	t.Helper()
	eventually(t, "all messages are remembered", func() (bool, string) {
		var n int64
		err := db.Table("idempotency_inbox").Count(&n).Error
		return err == nil && n == 6, fmt.Sprint(n, " remembered, ", err)
	})
	count(t, db, 3, stocked-3)
}

func cluster(t *testing.T) []string {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "commands.PlaceOrder", "events.OrderPlaced"))
	must(t, err)
	t.Cleanup(c.Close)
	return c.ListenAddrs()
}

func TestWithProcessorOverStockKafka(t *testing.T) {
	t.Parallel()
	db, brokers := openDB(t), cluster(t)
	marshaler := kafka.NewWithPartitioningMarshaler(func(_ string, m *message.Message) (string, error) {
		return m.Metadata.Get("ce_partitionkey"), nil
	})
	pub, err := kafka.NewPublisher(kafka.PublisherConfig{Brokers: brokers, Marshaler: marshaler}, watermill.NopLogger{})
	must(t, err)
	t.Cleanup(func() { must(t, pub.Close()) })
	oldest := kafka.DefaultSaramaSubscriberConfig()
	oldest.Consumer.Offsets.Initial = sarama.OffsetOldest
	app, err := migration.WithProcessor(t.Context(), db, twice{pub}, func(group string) (message.Subscriber, error) {
		return kafka.NewSubscriber(kafka.SubscriberConfig{
			Brokers: brokers, Unmarshaler: marshaler, ConsumerGroup: group, OverwriteSaramaConfig: oldest,
		}, watermill.NopLogger{})
	})
	must(t, err)
	serve(t, app.Run)
	place(t, db, app)
	settled(t, db)
}

func TestWithKafkabus(t *testing.T) {
	t.Parallel()
	db := openDB(t)
	bus, err := kafkabus.New(cluster(t), kafkabus.Config{})
	must(t, err)
	t.Cleanup(func() { must(t, bus.Close()) })
	app, err := migration.WithKafkabus(t.Context(), db, bus)
	must(t, err)
	serve(t, app.Run)
	place(t, db, app)
}

// Callers that come together share a commit. The linger only ends when all are there.
func TestWithExecute(t *testing.T) {
	t.Parallel()
	const callers = 8
	db := openDB(t)
	bus := localbus.New(localbus.Config{InTransaction: uow.In})
	t.Cleanup(func() { must(t, bus.Close()) })
	svc, err := migration.WithExecute(t.Context(), db, bus, uow.Config{MaxShare: callers, Linger: patience})
	must(t, err)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			id, err := cqrs.Execute(t.Context(), svc.Processor, migration.Buy{ID: fmt.Sprint(i), SKU: "hat"})
			if err != nil || id != fmt.Sprint(i) {
				t.Errorf("Execute = %q, %v", id, err)
			}
		})
	}
	wg.Wait()
	if n := svc.Work.Stats().Commits; n != 1 {
		t.Errorf("%d callers took %d commits, want 1", callers, n)
	}
}

func TestWithSaga(t *testing.T) {
	t.Parallel()
	db := openDB(t)
	svc, fulfilments, err := migration.WithSaga(t.Context(), db,
		func(_ context.Context, c migration.Charge) (migration.Charged, error) {
			if c.ID == "poor" {
				return migration.Charged{}, cqrs.Reject("declined", nil)
			}
			return migration.Charged{}, nil
		})
	must(t, err)
	serve(t, svc.Run)
	<-svc.Processor.Running()
	must(t, svc.Work.Do(t.Context(), func(ctx context.Context) error {
		return svc.Sender.Publish(ctx,
			migration.OrderPlaced{ID: "rich", SKU: "hat"}, migration.OrderPlaced{ID: "poor", SKU: "hat"})
	}))
	for id, want := range map[string]string{"rich": "completed", "poor": "compensated"} {
		eventually(t, id+" ends", func() (bool, string) {
			f, err := fulfilments.Get(t.Context(), id)
			return err == nil && string(f.Status) == want, fmt.Sprint(f, err)
		})
	}
	count(t, db, 0, stocked-1)
}
