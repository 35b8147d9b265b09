package bank

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	_ "github.com/glebarez/sqlite" // registers the driver "sqlite"
)

// Operations that the bank performs.
const (
	Authorize = "authorize"
	Capture   = "capture"
	Void      = "void"
	Refund    = "refund"
)

const schema = `CREATE TABLE IF NOT EXISTS ledger (
	seq       INTEGER PRIMARY KEY AUTOINCREMENT,
	operation TEXT    NOT NULL,
	reference TEXT    NOT NULL,
	card      TEXT    NOT NULL,
	amount    INTEGER NOT NULL,
	of        INTEGER NOT NULL,
	refused   TEXT    NOT NULL,
	idem_key  TEXT UNIQUE,
	at        INTEGER NOT NULL
)`

// A Fault is what the bank does wrong. The zero value is a bank that works.
type Fault struct {
	Outage  bool          // nothing is performed, every answer is 503
	Delay   time.Duration // before anything is performed
	Swallow float64       // this part of what is performed, from 0 to 1, is never answered
}

// Config configures a [Bank].
type Config struct {
	Path string // of the ledger's SQLite file; it is made if it is not there
	Seed uint64 // of the choice which answers are swallowed
}

// A Bank is safe for concurrent use. Close it.
type Bank struct {
	db     *sql.DB
	work   chan *job
	closed chan struct{}
	done   chan struct{}
	once   sync.Once

	mu    sync.Mutex
	fault Fault
	rng   *rand.Rand
}

// Open opens the ledger and starts the one goroutine that writes it.
func Open(ctx context.Context, cfg Config) (*Bank, error) {
	db, err := sql.Open("sqlite", cfg.Path+
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)")
	if err != nil {
		return nil, fmt.Errorf("bank: open %s: %w", cfg.Path, err)
	}
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return nil, errors.Join(fmt.Errorf("bank: open %s: %w", cfg.Path, err), db.Close())
	}
	b := &Bank{
		db: db, work: make(chan *job, 256), closed: make(chan struct{}), done: make(chan struct{}),
		rng: rand.New(rand.NewPCG(cfg.Seed, 1)), //nolint:gosec // a repeatable choice is wanted
	}
	go b.write()
	return b, nil
}

// Set puts a fault in place of the one before.
func (b *Bank) Set(f Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault = f
}

// Close stops the bank. Requests under way are answered 503.
func (b *Bank) Close() error {
	b.once.Do(func() { close(b.closed) })
	<-b.done
	return b.db.Close()
}

// ServeHTTP serves the bank's one endpoint.
func (b *Bank) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.URL.Path != "/v1/operations" {
		http.NotFound(w, r)
		return
	}
	fault, swallow := b.now()
	if fault.Outage || !wait(r.Context(), fault.Delay) {
		http.Error(w, "out of order", http.StatusServiceUnavailable)
		return
	}
	op, err := decode(w, r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := b.perform(r.Context(), op)
	switch {
	case errors.Is(err, errMismatch):
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	case swallow:
		b.hang(r.Context())
	default:
		answer.write(w)
	}
}

// now returns the fault in force, and whether this request's answer is to be swallowed.
func (b *Bank) now() (Fault, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fault, b.fault.Swallow > 0 && b.rng.Float64() < b.fault.Swallow
}

// hang lets the client wait until it gives up, and then drops the connection.
func (b *Bank) hang(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-b.closed:
	}
	panic(http.ErrAbortHandler)
}

func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
