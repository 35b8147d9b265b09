package kafkabus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"gorm.io/gorm"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/cqrs/kafkabus"
	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox/uow"
)

// A tick is the nth message of a key.
type tick struct {
	cqrs.Returns[struct{}]
	Key, N int
}

func ticks(topic string) *cqrs.Catalog {
	return cqrs.NewCatalog(cqrs.Command[tick]{
		Name: "chaos.tick", Topic: topic, Key: func(c tick) string { return strconv.Itoa(c.Key) },
	})
}

// A storm publishes messages while members of a group come and go and brokers fail, and wants each message's
// effect once, in the order of its key.
type storm struct {
	t       *testing.T
	brokers []string
	cfg     kafkabus.Config
	topic   string
	group   string
	store   *store
	keys    int
	perKey  int

	churn   time.Duration                     // between one member's leaving and the next one's
	pace    time.Duration                     // between batches
	batch   int                               // messages published at once
	disturb func(ctx context.Context) (n int) // troubles the brokers until ctx ends, at least once
	limit   time.Duration                     // in all

	members, repeats, failures atomic.Int64
}

// mostMembers bounds the coming and going on a machine that is too slow for its pace.
const mostMembers = 60

// hasty is a configuration whose members are soon back.
func hasty() kafkabus.Config {
	cfg := quickConfig()
	cfg.Subscriber.ReconnectRetrySleep = 50 * time.Millisecond
	return cfg
}

func (s *storm) rage() {
	t, start := s.t, time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), s.limit)
	defer cancel()
	var publishing, trouble sync.WaitGroup
	over, calm := context.WithCancel(ctx)
	defer calm()
	disturbances := 0
	trouble.Go(s.comeAndGo(over))
	trouble.Go(func() { disturbances = s.disturb(over) })
	publishing.Go(func() { s.publish(ctx) })
	publishing.Wait()
	published := time.Since(start)
	total := int64(s.keys) * int64(s.perKey)
	for s.store.count() < total && ctx.Err() == nil {
		s.wait(ctx, 100*time.Millisecond)
	}
	took := time.Since(start)
	calm()
	trouble.Wait()
	s.verify(total)
	t.Logf("%d messages published in %v and handled in %v; %d members, %d disturbances, %d failed sends, %d repeats",
		total, published, took, s.members.Load(), disturbances, s.failures.Load(), s.repeats.Load())
}

func (s *storm) wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// publish publishes in the order of each key, and again what is not known to have arrived.
func (s *storm) publish(ctx context.Context) {
	bus := s.bus()
	defer func() {
		if err := bus.Close(); errors.Is(err, kafkabus.ErrUnanswered) {
			s.t.Log("a batch that was given up, and sent again, has got no answer to this day")
		} else if err != nil {
			s.t.Error(err)
		}
	}()
	pub := bus.Publisher()
	pace := time.NewTicker(s.pace)
	defer pace.Stop()
	var batch []*message.Message
	for i := range s.keys * s.perKey {
		batch = append(batch, tickMessage(i%s.keys, i/s.keys))
		if len(batch) < s.batch && i < s.keys*s.perKey-1 {
			continue
		}
		for len(batch) > 0 && ctx.Err() == nil {
			batch = s.rest(batch, s.send(ctx, pub, batch))
		}
		select {
		case <-pace.C:
		case <-ctx.Done():
			s.t.Errorf("only %d messages could be published", i)
			return
		}
	}
}

// send gives up on a broker that does not answer, as a relay has to.
func (s *storm) send(ctx context.Context, pub message.Publisher, batch []*message.Message) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	batch[0].SetContext(ctx)
	return pub.Publish(s.topic, batch...)
}

func (s *storm) rest(batch []*message.Message, err error) []*message.Message {
	if err == nil {
		return nil
	}
	s.failures.Add(1)
	var failed *kafkabus.PublishError
	if !errors.As(err, &failed) {
		return batch
	}
	var rest []*message.Message
	for _, i := range failed.Failed() {
		rest = append(rest, batch[i])
	}
	return rest
}

func tickMessage(key, n int) *message.Message {
	payload, _ := json.Marshal(tick{Key: key, N: n})
	m := message.NewMessage(fmt.Sprint(key, "-", n), payload)
	m.Metadata = message.Metadata{
		"ce_type": "chaos.tick", "ce_kind": "command", "ce_partitionkey": strconv.Itoa(key),
		"content-type": "application/json",
	}
	return m
}

// comeAndGo keeps three members; the oldest leaves whenever another has come.
func (s *storm) comeAndGo(ctx context.Context) func() {
	var leave []func()
	for range 3 {
		leave = append(leave, s.join())
	}
	return func() {
		for ctx.Err() == nil {
			s.wait(ctx, s.churn)
			if s.members.Load() < mostMembers && ctx.Err() == nil {
				leave = append(leave, s.join())
				leave[0]()
				leave = leave[1:]
			}
		}
		for _, l := range leave {
			l()
		}
	}
}

func (s *storm) bus() *kafkabus.Bus {
	bus, err := kafkabus.New(s.brokers, s.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	return bus
}

// join adds a member with a bus and connections of its own, as another process would have.
func (s *storm) join() (leave func()) {
	bus := s.bus()
	work, part := s.store.work(s.t)
	sender, err := cqrs.NewSender(ticks(s.topic), bus.Publisher(), cqrs.SenderConfig{})
	dead, err2 := gormstore.NewDeadLetters(work, gormstore.DeadLettersConfig{})
	if err := errors.Join(err, err2); err != nil {
		s.t.Fatal(err)
	}
	p, err := cqrs.NewProcessor(s.group, sender, cqrs.ProcessorConfig{
		Subscribe: bus.Subscriber, UnitOfWork: work, InTransaction: uow.In,
		Inbox: idempotency.NewInbox(idempotency.InboxConfig{}), Parking: gormstore.NewParking(), DeadLetters: dead,
		Lanes: 2, MaxBatch: 256,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	member := s.members.Add(1)
	cqrs.HandleBatch(p, func(ctx context.Context, items []*cqrs.Item[tick, struct{}]) error {
		return insertTicks(ctx, member, items)
	})
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	return func() {
		cancel()
		if err := errors.Join(<-ended, bus.Close()); err != nil {
			s.t.Errorf("a member leaves with %v", err)
		}
		s.repeats.Add(p.Stats().Duplicates)
		part()
	}
}

func insertTicks(ctx context.Context, member int64, items []*cqrs.Item[tick, struct{}]) error {
	args := make([]any, 0, 3*len(items))
	for _, it := range items {
		args = append(args, it.Message.Key, it.Message.N, member)
	}
	rows := strings.TrimSuffix(strings.Repeat("(?,?,?),", len(items)), ",")
	return uow.DB(ctx).Exec("INSERT INTO ticks (k, n, member) VALUES "+rows, args...).Error
}

func (s *storm) verify(total int64) {
	for query, want := range map[string]int64{
		"SELECT count(*) FROM ticks":                                  total,
		"SELECT count(*) FROM (SELECT DISTINCT k, n FROM ticks) AS d": total,
		"SELECT count(*) FROM cqrs_dead":                              0,
		"SELECT count(*) FROM cqrs_parked":                            0,
		`SELECT count(*) FROM (SELECT n, lag(n, 1, -1) OVER (PARTITION BY k ORDER BY place) AS before FROM ticks) AS o
			WHERE n <> before + 1`: 0,
	} {
		if got := s.store.query(query); got != want {
			s.t.Errorf("%s: %d, want %d", query, got, want)
		}
	}
	s.explain()
	bus := s.bus()
	defer closed(s.t, bus)
	if lag := lagOf(s.t, bus, s.group, s.topic); lag != 0 && !s.t.Failed() {
		s.t.Errorf("%d messages are handled and not committed although all members have left", lag)
	}
}

// explain shows what surrounds a few of the effects that are out of order.
func (s *storm) explain() {
	var around []struct{ Place, K, N, Member int64 }
	err := s.store.db.Raw(`SELECT t.* FROM ticks t JOIN (SELECT k, n, place,
			lag(n, 1, -1) OVER (PARTITION BY k ORDER BY place) AS before FROM ticks) AS o
		ON t.k = o.k AND t.n BETWEEN o.n - 3 AND o.n + 2 WHERE o.n <> o.before + 1
		ORDER BY t.k, t.place LIMIT 40`).Scan(&around).Error
	if err != nil {
		s.t.Error(err)
	}
	for _, a := range around {
		s.t.Logf("key %d: message %d by member %d at place %d", a.K, a.N, a.Member, a.Place)
	}
}

// A store is where members count.
type store struct {
	t    *testing.T
	open func(t *testing.T) *gorm.DB // with connections of its own
	db   *gorm.DB
	one  *uow.UnitOfWork // of all members, where there is one writer anyway
}

// newStore prepares the tables; open is called once per member unless the database has a single writer.
func newStore(t *testing.T, open func(t *testing.T) *gorm.DB, serial string) *store {
	t.Helper()
	s := &store{t: t, open: open, db: open(t)}
	ctx := t.Context()
	create := "CREATE TABLE ticks (place " + serial + ", k BIGINT NOT NULL, n BIGINT NOT NULL, member BIGINT NOT NULL)"
	err := errors.Join(idempotency.Migrate(ctx, s.db), gormstore.Migrate(ctx, s.db), s.db.Exec(create).Error)
	if err != nil {
		t.Fatal(err)
	}
	if s.db.Name() == "sqlite" {
		s.one = s.newWork(t, s.db)
	}
	return s
}

// work returns a member's unit of work, and what ends its connections.
func (s *store) work(t *testing.T) (*uow.UnitOfWork, func()) {
	if s.one != nil {
		return s.one, func() {}
	}
	db := s.open(t)
	return s.newWork(t, db), func() {
		if pool, err := db.DB(); err == nil {
			_ = pool.Close()
		}
	}
}

func (s *store) newWork(t *testing.T, db *gorm.DB) *uow.UnitOfWork {
	work, err := uow.New(db, uow.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return work
}

func (s *store) count() int64 { return s.query("SELECT count(*) FROM ticks") }

func (s *store) query(sql string) int64 {
	var n int64
	if err := s.db.Raw(sql).Scan(&n).Error; err != nil {
		s.t.Fatal(sql, err)
	}
	return n
}

// stormy is a topic and a group for a storm.
func stormy(t *testing.T, brokers []string, s *storm, partitions int32) *storm {
	t.Helper()
	s.t, s.brokers, s.group = t, brokers, watermill.NewShortUUID()
	bus := s.bus()
	defer closed(t, bus)
	s.topic = topicPrefix + watermill.NewShortUUID()
	spec := kafkabus.Topic{Name: s.topic, Partitions: partitions}
	if err := bus.CreateTopics(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	return s
}
