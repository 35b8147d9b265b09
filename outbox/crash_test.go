package outbox_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	mysqldriver "github.com/go-sql-driver/mysql"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

const (
	crashWriters = 16
	crashKeys    = 24
	crashBatch   = 100 // what a relay may have published and not deleted when it is killed, of one topic
)

var errCrashUndone = errors.New("undone")

// crashes returns how often the relay's process is killed; SURGE_TEST_CRASHES wins.
func crashes(t *testing.T, n int) int {
	t.Helper()
	if s := os.Getenv("SURGE_TEST_CRASHES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if testing.Short() {
		return n / 10
	}
	return n
}

func TestRelayIsKilledSQLite(t *testing.T) {
	t.Parallel()
	testKills(t, crashSQLite(t), crashes(t, 200))
}

func TestRelayIsKilledPostgres(t *testing.T) {
	t.Parallel()
	testKills(t, crashPostgres(t), crashes(t, 60))
}

func TestRelayIsKilledMySQL(t *testing.T) {
	t.Parallel()
	testKills(t, crashMySQL(t), crashes(t, 40))
}

// testKills has sixteen writers publish while the process of the relay is killed again and again, by SIGKILL: as
// soon as it starts, while it publishes, while it deletes. What it published outlives it here.
func testKills(t *testing.T, at crashDatabase, kills int) {
	db := at.open(t)
	box, unit := newOutbox(t, db)
	l := newCrashLoad(t, db, box, unit)
	sink := newCrashSink(t)
	stop := l.start()
	rnd := rand.New(rand.NewPCG(uint64(kills), 11))
	for n := range kills {
		sink.spawn(at, n, randomPlan(rnd)).killed()
		if t.Failed() {
			return
		}
	}
	stop()
	last := sink.spawn(at, kills, noCrash)
	l.drained(last)
	last.stop()
	l.check(sink)
	t.Logf("%d kills, %d messages, %d duplicates, at most %d after one kill",
		kills, sink.first, sink.total(), sink.worst())
}

// A crashLoad counts up keys and publishes their numbers.
type crashLoad struct {
	t    *testing.T
	db   *gorm.DB
	box  *outbox.Outbox
	unit *uow.UnitOfWork
}

func newCrashLoad(t *testing.T, db *gorm.DB, box *outbox.Outbox, unit *uow.UnitOfWork) *crashLoad {
	t.Helper()
	l := &crashLoad{t: t, db: db, box: box, unit: unit}
	l.exec("CREATE TABLE crash_keys (k INTEGER NOT NULL PRIMARY KEY, n INTEGER NOT NULL)")
	for k := range crashKeys {
		l.exec("INSERT INTO crash_keys (k, n) VALUES (?, 0)", k)
	}
	return l
}

func (l *crashLoad) exec(query string, args ...any) {
	l.t.Helper()
	if err := l.db.Exec(query, args...).Error; err != nil {
		l.t.Fatal(err)
	}
}

// start starts the writers; they end when stop is called.
func (l *crashLoad) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	rest := 10 * time.Millisecond
	if l.db.Name() == "sqlite" {
		rest = 50 * time.Millisecond // the relay has to come by the one writer's lock, in another process
	}
	var all sync.WaitGroup
	for w := range crashWriters {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 5))
			for ctx.Err() == nil {
				if err := l.write(rnd); err != nil && !errors.Is(err, errCrashUndone) {
					l.t.Errorf("writer %d: %v", w, err)
					return
				}
				crashPause(time.Duration(rnd.Int64N(int64(rest))))
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); all.Wait() })
	l.t.Cleanup(stop)
	return stop
}

// write counts up a key, in a shared transaction or in one of its own that gets its place in the table early and is
// committed late. Some are undone.
func (l *crashLoad) write(rnd *rand.Rand) error {
	key, undone, hold := rnd.IntN(crashKeys), rnd.IntN(8) == 0, time.Duration(rnd.IntN(2000))*time.Microsecond
	if l.db.Name() != "sqlite" && rnd.IntN(2) == 0 {
		return l.again(func() error {
			return l.db.Transaction(func(tx *gorm.DB) error {
				return l.count(tx, key, undone, hold, func(topic string, m *message.Message) error {
					return l.box.PublishTx(tx, topic, m)
				})
			})
		})
	}
	return l.unit.Do(context.Background(), func(ctx context.Context) error {
		return l.count(uow.DB(ctx), key, undone, 0, func(topic string, m *message.Message) error {
			m.SetContext(ctx)
			return l.box.Publish(topic, m)
		})
	})
}

// again repeats a transaction that a deadlock ended: shared ones lock several keys, in any order.
func (l *crashLoad) again(transaction func() error) error {
	for {
		err := transaction()
		var state interface{ SQLState() string }
		var my *mysqldriver.MySQLError
		if errors.As(err, &state) && state.SQLState() == "40P01" || errors.As(err, &my) && my.Number == 1213 {
			continue
		}
		return err
	}
}

func (l *crashLoad) count(
	tx *gorm.DB, key int, undone bool, hold time.Duration, publish func(string, *message.Message) error,
) error {
	if err := tx.Exec("UPDATE crash_keys SET n = n + 1 WHERE k = ?", key).Error; err != nil {
		return err
	}
	var n int
	if err := tx.Raw("SELECT n FROM crash_keys WHERE k = ?", key).Row().Scan(&n); err != nil {
		return err
	}
	m := message.NewMessage(strconv.Itoa(key)+"/"+strconv.Itoa(n), []byte(strconv.Itoa(n)))
	if undone {
		m = message.NewMessage("undone", []byte("undone"))
	}
	m.Metadata.Set(outbox.HeaderKey, strconv.Itoa(key))
	if err := publish("topic-"+strconv.Itoa(key%2), m); err != nil {
		return err
	}
	crashPause(hold)
	if undone {
		return errCrashUndone
	}
	return nil
}

// drained waits until the table is empty.
func (l *crashLoad) drained(last *crashProcess) {
	l.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for left := 1; left > 0; crashPause(5 * time.Millisecond) {
		if err := l.db.Raw("SELECT count(*) FROM outbox").Row().Scan(&left); err != nil {
			l.t.Fatal(err)
		}
		if time.Now().After(deadline) || last.ended() {
			l.t.Fatalf("%d messages do not leave: %s", left, last.out.String())
		}
	}
}

// check compares what arrived with what was committed.
func (l *crashLoad) check(sink *crashSink) {
	l.t.Helper()
	sink.mu.Lock()
	defer sink.mu.Unlock()
	for k := range crashKeys {
		var n int
		if err := l.db.Raw("SELECT n FROM crash_keys WHERE k = ?", k).Row().Scan(&n); err != nil {
			l.t.Fatal(err)
		}
		if got := sink.next[strconv.Itoa(k)]; got != n {
			l.t.Errorf("key %d: %d messages arrived, %d were committed", k, got, n)
		}
		sink.first += n
	}
	if sink.first < 10*len(sink.again) {
		l.t.Errorf("%d messages in all: that is no load", sink.first)
	}
	for gen, topics := range sink.again {
		for topic, n := range topics {
			if n > crashBatch {
				l.t.Errorf("%d messages of %s were to be published again after process %d was killed, at most %d may",
					n, topic, gen, crashBatch)
			}
		}
	}
	for _, fault := range sink.faults {
		l.t.Error(fault)
	}
}

// crashPause is for the durations that belong to the scenario.
func crashPause(d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}
