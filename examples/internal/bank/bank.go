package bank

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"sync"

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

// A Bank is safe for concurrent use. Close it.
type Bank struct {
	db     *sql.DB
	work   chan *job
	closed chan struct{}
	done   chan struct{}
	once   sync.Once
}

// Open opens the ledger, a SQLite file that is made if it is not there, and starts the one goroutine that writes it.
func Open(ctx context.Context, path string) (*Bank, error) {
	db, err := sql.Open("sqlite", path+
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)")
	if err != nil {
		return nil, fmt.Errorf("bank: open %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return nil, errors.Join(fmt.Errorf("bank: open %s: %w", path, err), db.Close())
	}
	b := &Bank{db: db, work: make(chan *job, 256), closed: make(chan struct{}), done: make(chan struct{})}
	go b.write()
	return b, nil
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
	default:
		answer.write(w)
	}
}
