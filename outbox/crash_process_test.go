package outbox_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/glebarez/sqlite"
	mysqldriver "github.com/go-sql-driver/mysql"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/outboxtest"
	"gorm.io/driver/mysql"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
)

// A crashDatabase is a database that another process can open too.
type crashDatabase struct{ name, dsn string }

func (d crashDatabase) dialector() gorm.Dialector {
	switch d.name {
	case "postgres":
		return postgres.Open(d.dsn)
	case "mysql":
		return mysql.Open(d.dsn)
	}
	return sqlite.Open(d.dsn)
}

func (d crashDatabase) open(t testing.TB) *gorm.DB {
	t.Helper()
	return outboxtest.Open(t, d.dialector())
}

func crashSQLite(t testing.TB) crashDatabase {
	t.Helper()
	return crashDatabase{"sqlite", outboxtest.File(t) + pragmas}
}

func crashPostgres(t testing.TB) crashDatabase {
	t.Helper()
	url := os.Getenv("SURGE_TEST_POSTGRES")
	if url == "" {
		t.Skip("SURGE_TEST_POSTGRES is not set")
	}
	return crashDatabase{"postgres", outboxtest.Schema(t, outboxtest.Open(t, postgres.Open(url)), url)}
}

func crashMySQL(t testing.TB) crashDatabase {
	t.Helper()
	dsn := os.Getenv("SURGE_TEST_MYSQL")
	if dsn == "" {
		t.Skip("SURGE_TEST_MYSQL is not set")
	}
	cfg, err := mysqldriver.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	cfg.DBName = outboxtest.Database(t, outboxtest.Open(t, mysql.Open(dsn)))
	return crashDatabase{"mysql", cfg.FormatDSN()}
}

// A crashBatchOf is one call of Publish, on its way to the sink.
type crashBatchOf struct {
	Topic               string
	IDs, Keys, Payloads []string
}

// A crashSink takes what relays publish and outlives them. There is one relay at a time.
type crashSink struct {
	t        *testing.T
	listener net.Listener

	mu     sync.Mutex
	next   map[string]int   // the last number of each key
	last   map[string]int   // the process that published it last
	again  []map[string]int // what was published once more, by the process that did before, and by topic
	faults []string
	first  int
}

func newCrashSink(t *testing.T) *crashSink {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return &crashSink{t: t, listener: l, next: map[string]int{}, last: map[string]int{}}
}

// take notes a batch: it is published now, whether or not the relay hears of it.
func (s *crashSink) take(b crashBatchOf) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, id := range b.IDs {
		before, seen := s.last[id]
		s.last[id] = len(s.again) - 1
		if seen {
			s.again[before][b.Topic]++
			continue
		}
		n, err := strconv.Atoi(b.Payloads[i])
		if err != nil || n != s.next[b.Keys[i]]+1 {
			s.faults = append(s.faults, fmt.Sprintf("key %s: %s after %d", b.Keys[i], b.Payloads[i], s.next[b.Keys[i]]))
		}
		s.next[b.Keys[i]] = n
	}
}

func (s *crashSink) total() (n int) {
	for _, topics := range s.again {
		for _, again := range topics {
			n += again
		}
	}
	return n
}

func (s *crashSink) worst() (n int) {
	for _, topics := range s.again {
		for _, again := range topics {
			n = max(n, again)
		}
	}
	return n
}

// A crashPlan says when a process is killed.
type crashPlan struct {
	calls  int           // after so many calls of Publish; 0 means at any moment after the start
	during bool          // before the last of them has returned
	after  time.Duration // otherwise so long after it
}

var noCrash = crashPlan{calls: -1}

func randomPlan(rnd *rand.Rand) crashPlan {
	p := crashPlan{calls: rnd.IntN(6), during: rnd.IntN(2) == 0, after: time.Duration(rnd.IntN(3000)) * time.Microsecond}
	if p.calls == 0 {
		p.during, p.after = false, time.Duration(rnd.IntN(100))*time.Millisecond
	}
	return p
}

// A crashProcess is a relay in a process of its own.
type crashProcess struct {
	sink   *crashSink
	plan   crashPlan
	cmd    *exec.Cmd
	out    bytes.Buffer
	exited chan struct{} // the process has ended
	read   chan struct{} // and all that it sent was read
}

// spawn starts the relay's process for the n-th time. Most take over from the one before because they have its name;
// every tenth has one of its own and waits until the leases expire, as does the one after it.
func (s *crashSink) spawn(at crashDatabase, n int, plan crashPlan) *crashProcess {
	s.t.Helper()
	owner, lease := "relay", 2*time.Second
	if n%10 >= 8 {
		lease = 300 * time.Millisecond
	}
	if n%10 == 9 {
		owner = "relay-" + strconv.Itoa(n)
	}
	p := &crashProcess{sink: s, plan: plan, exited: make(chan struct{}), read: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], "-test.run=^TestCrashRelay$")
	p.cmd.Env = append(os.Environ(), "SURGE_CRASH_SINK="+s.listener.Addr().String(), "SURGE_CRASH_DATABASE="+at.name,
		"SURGE_CRASH_DSN="+at.dsn, "SURGE_CRASH_OWNER="+owner, "SURGE_CRASH_LEASE="+lease.String())
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	s.mu.Lock()
	s.again = append(s.again, map[string]int{})
	s.mu.Unlock()
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.exited) }()
	go p.serve()
	s.t.Cleanup(p.stop)
	return p
}

// serve takes what the process publishes, and kills it as planned.
func (p *crashProcess) serve() {
	defer close(p.read)
	if p.plan.calls == 0 {
		crashPause(p.plan.after)
		_ = p.cmd.Process.Kill()
	}
	conn := p.accept()
	if conn == nil {
		return
	}
	defer func() { _ = conn.Close() }()
	in := gob.NewDecoder(conn)
	for calls := 1; ; calls++ {
		var b crashBatchOf
		if err := in.Decode(&b); err != nil {
			return // it is dead, and nothing of it is on its way
		}
		p.sink.take(b)
		if calls == p.plan.calls && p.plan.during {
			_ = p.cmd.Process.Kill()
		}
		_, _ = conn.Write([]byte{1})
		if calls == p.plan.calls && !p.plan.during {
			crashPause(p.plan.after)
			_ = p.cmd.Process.Kill()
		}
	}
}

// accept returns the process's connection, nil if it ends without one.
func (p *crashProcess) accept() net.Conn {
	l, _ := p.sink.listener.(*net.TCPListener)
	for {
		_ = l.SetDeadline(time.Now().Add(20 * time.Millisecond))
		conn, err := l.Accept()
		if err == nil {
			return conn
		}
		select {
		case <-p.exited: // one that connected meanwhile has sent nothing, or is accepted now
			_ = l.SetDeadline(time.Now().Add(20 * time.Millisecond))
			conn, _ = l.Accept()
			return conn
		default:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
		}
	}
}

// killed waits until the process was killed.
func (p *crashProcess) killed() {
	p.sink.t.Helper()
	patience := time.NewTimer(time.Minute)
	defer patience.Stop()
	select {
	case <-p.read:
		<-p.exited
	case <-patience.C:
		p.stop()
		p.sink.t.Fatalf("it does not publish: %s", p.out.String())
	}
	if state := p.cmd.ProcessState; state.Exited() && state.ExitCode() >= 0 {
		p.sink.t.Fatalf("it ended by itself, with %d: %s", state.ExitCode(), p.out.String())
	}
}

// stop kills the process, if it is alive, and waits for what it sent.
func (p *crashProcess) stop() {
	_ = p.cmd.Process.Kill()
	<-p.exited
	<-p.read
}

func (p *crashProcess) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// TestCrashRelay is not a test: it is the process that the tests above kill.
func TestCrashRelay(t *testing.T) {
	addr := os.Getenv("SURGE_CRASH_SINK")
	if addr == "" {
		return
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	at := crashDatabase{os.Getenv("SURGE_CRASH_DATABASE"), os.Getenv("SURGE_CRASH_DSN")}
	lease, err := time.ParseDuration(os.Getenv("SURGE_CRASH_LEASE"))
	if err != nil {
		t.Fatal(err)
	}
	box, err := outbox.New(at.open(t), outbox.Config{})
	if err != nil {
		t.Fatal(err)
	}
	to := &crashPublisher{conn: conn, out: gob.NewEncoder(conn)}
	relay := newRelay(t, box, to, outbox.RelayConfig{
		Owner: os.Getenv("SURGE_CRASH_OWNER"), Lease: lease, Batch: crashBatch,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	t.Fatalf("Run returned %v", relay.Run(context.Background()))
}

// A crashPublisher publishes to the sink in the parent process, and waits for its answer.
type crashPublisher struct {
	mu   sync.Mutex
	conn net.Conn
	out  *gob.Encoder
}

func (p *crashPublisher) Publish(topic string, msgs ...*message.Message) error {
	b := crashBatchOf{Topic: topic}
	for _, m := range msgs {
		b.IDs = append(b.IDs, m.UUID)
		b.Keys = append(b.Keys, m.Metadata.Get(outbox.HeaderKey))
		b.Payloads = append(b.Payloads, string(m.Payload))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.out.Encode(b)
	if err == nil {
		_, err = io.ReadFull(p.conn, make([]byte, 1))
	}
	if err != nil {
		os.Exit(3) // the parent is gone
	}
	return nil
}

func (p *crashPublisher) Close() error { return nil }
