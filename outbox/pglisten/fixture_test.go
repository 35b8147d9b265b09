package pglisten_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/outboxtest"
	"github.com/surge-go/surge/outbox/pglisten"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
)

// schema returns the URL of a schema that has the outbox's tables.
func schema(t *testing.T) string {
	t.Helper()
	url := os.Getenv("SURGE_TEST_POSTGRES")
	if url == "" {
		t.Skip("SURGE_TEST_POSTGRES is not set")
	}
	url = outboxtest.Schema(t, outboxtest.Open(t, postgres.Open(url)), url)
	db := outboxtest.Open(t, postgres.Open(url))
	must(t, outbox.Migrate(t.Context(), db))
	return url
}

// A process is what one process has: a database handle, a unit of work and an outbox of its own.
type process struct {
	db   *gorm.DB
	unit *uow.UnitOfWork
	box  *outbox.Outbox
	sql  *tracer
}

func newProcess(t *testing.T, url string, cfg outbox.Config) *process {
	t.Helper()
	conn, err := pgx.ParseConfig(url)
	must(t, err)
	p := &process{sql: &tracer{}}
	conn.Tracer = p.sql
	pool := stdlib.OpenDB(*conn)
	t.Cleanup(func() { _ = pool.Close() })
	p.db = outboxtest.Open(t, postgres.New(postgres.Config{Conn: pool}))
	p.unit, err = uow.New(p.db, uow.Config{MaxShare: 1, Writers: 8})
	must(t, err)
	p.box, err = outbox.New(p.db, cfg)
	must(t, err)
	t.Cleanup(func() { _ = p.box.Close() })
	return p
}

func (p *process) publish(id string) error { return p.publishIn(id, 0) }

// publishIn publishes a message that is due after d.
func (p *process) publishIn(id string, d time.Duration) error {
	return p.unit.Do(context.Background(), func(ctx context.Context) error {
		m := message.NewMessage(id, nil)
		m.SetContext(ctx)
		if d > 0 {
			m.Metadata.Set(outbox.HeaderDeliverAt, time.Now().Add(d).Format(time.RFC3339Nano))
		}
		return p.box.Publish("topic", m)
	})
}

// A tracer records, for each notification, the state of its connection's transaction as it was sent: I is none.
type tracer struct {
	mu    sync.Mutex
	state []byte
	ended int
}

type notification struct{} // marks the context of a notification's statement

func (tr *tracer) TraceQueryStart(ctx context.Context, c *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if !strings.Contains(q.SQL, "pg_notify") {
		return ctx
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.state = append(tr.state, c.PgConn().TxStatus())
	return context.WithValue(ctx, notification{}, true)
}

func (tr *tracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	if ctx.Value(notification{}) != nil {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.ended++
	}
}

func (tr *tracer) notifications() (state string, ended int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return string(tr.state), tr.ended
}

// relay runs a relay of the process until the test ends.
func (p *process) relay(t *testing.T, listen func(ctx context.Context, wake func()) error) *broker {
	t.Helper()
	to := &broker{}
	relay, err := outbox.NewRelay(p.box, to, outbox.RelayConfig{
		UnitOfWork: p.unit, MaxPoll: time.Hour, Backoff: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond,
		Listen: func(ctx context.Context, wake func()) error {
			return listen(ctx, func() { to.woken(); wake() })
		},
	})
	must(t, err)
	to.relay = relay
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := relay.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return to
}

// A broker records ids, and how often its relay was woken.
type broker struct {
	relay *outbox.Relay

	mu    sync.Mutex
	ids   []string
	wakes int
}

func (b *broker) Publish(_ string, msgs ...*message.Message) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range msgs {
		b.ids = append(b.ids, m.UUID)
	}
	return nil
}

func (b *broker) Close() error { return nil }

func (b *broker) has(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(b.ids, id)
}

func (b *broker) woken() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wakes++
}

func (b *broker) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wakes
}

// listener returns a Listener with a name of its own.
func listener(t *testing.T, url string) (*pglisten.Listener, string) {
	t.Helper()
	name := "listener " + url[strings.LastIndexByte(url, '_')+1:]
	l, err := pglisten.New(url+"&application_name="+strings.ReplaceAll(name, " ", "%20"), pglisten.Config{})
	must(t, err)
	return l, name
}

// backends returns the process ids of connections with a name.
func backends(t *testing.T, db *gorm.DB, name string) (pids []int) {
	t.Helper()
	rows, err := db.Raw("SELECT pid FROM pg_stat_activity WHERE application_name = ?", name).Rows()
	must(t, err)
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var pid int
		must(t, rows.Scan(&pid))
		pids = append(pids, pid)
	}
	return pids
}

// within waits until what holds.
func within(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
