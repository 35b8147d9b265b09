package uow

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"gorm.io/gorm"
)

var (
	errHung   = fmt.Errorf("uow: fn exceeded Config.PartTimeout: %w", context.DeadlineExceeded)
	errSilent = fmt.Errorf("uow: no answer within Config.PartTimeout: %w", context.DeadlineExceeded)
	errBroken = errors.New("uow: fn did not return")
	errEnded  = fmt.Errorf("%w: it has ended", ErrNoTransaction)
)

// A transaction is one database transaction and what its parts gathered.
type transaction struct {
	unit *UnitOfWork
	conn *sql.Conn
	tx   *sql.Tx       // nil on SQLite, where BEGIN IMMEDIATE is ours to say
	exec gorm.ConnPool // tx, or open
	open *open         // SQLite's

	life    context.Context    // ends with the transaction
	abandon context.CancelFunc // ends life; has tx stop waiting for the server

	savepoints bool // failed frames are rolled back to a savepoint
	many       bool // parts share it
	names      int  // savepoints so far

	draining sync.Mutex      // one goroutine at a time sends what is queued
	xid      *sql.NullString // PostgreSQL's name of the transaction, once it was asked for

	mu      sync.Mutex // fn may use its transaction from several goroutines
	doom    error      // why it can only roll back
	changed bool       // something was written
	gathers map[any]gather
	order   []any
	after   []func()
	queue   []pending
	sent    int              // statements of the queue so far
	points  map[string]marks // at savepoints of fn's own
}

// begin starts a transaction: READ COMMITTED where there is a choice, BEGIN IMMEDIATE on SQLite, so that a reader
// never has to become a writer half-way.
func (u *UnitOfWork) begin(savepoints, many bool) (*transaction, error) {
	ctx, cancel := u.bounded()
	defer cancel()
	conn, err := u.sql.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("uow: begin: %w", err)
	}
	t := &transaction{unit: u, conn: conn, savepoints: savepoints, many: many}
	t.life, t.abandon = context.WithCancel(context.Background())
	if u.dialect != sqlite {
		// The context of BeginTx rolls the transaction back when it ends: that is when the server does not answer.
		err = t.answered(func() (err error) {
			t.tx, err = conn.BeginTx(t.life, &sql.TxOptions{Isolation: u.dialect.isolation()})
			return err
		})
		t.exec = t.tx
	} else {
		t.open = &open{conn: conn}
		t.exec = t.open
		err = t.beginImmediate(ctx)
	}
	if err != nil {
		t.close()
		return nil, fmt.Errorf("uow: begin: %w", err)
	}
	return t, nil
}

// answered calls f, which waits for the server's answer to BEGIN, COMMIT or ROLLBACK, and gives up after PartTimeout: a
// host that is gone without a word would otherwise be waited for until TCP gives up, a quarter of an hour.
func (t *transaction) answered(f func() error) error {
	if t.unit.cfg.PartTimeout < 0 {
		return f()
	}
	var late atomic.Bool
	timer := time.AfterFunc(t.unit.cfg.PartTimeout, func() { late.Store(true); t.abandon() })
	defer timer.Stop()
	err := f()
	if late.Load() && errors.Is(err, context.Canceled) {
		err = errSilent
	}
	return err
}

func (t *transaction) beginImmediate(ctx context.Context) error {
	if t.unit.busy {
		if _, err := t.conn.ExecContext(ctx, "PRAGMA busy_timeout=5000"); err != nil {
			return err
		}
	}
	_, err := t.conn.ExecContext(ctx, "BEGIN IMMEDIATE")
	return err
}

func (u *UnitOfWork) bounded() (context.Context, context.CancelFunc) {
	return u.boundedBy(u.cfg.PartTimeout)
}

func (u *UnitOfWork) boundedBy(limit time.Duration) (context.Context, context.CancelFunc) {
	if limit < 0 {
		return context.WithCancel(context.Background())
	}
	return context.WithTimeout(context.Background(), limit)
}

func (t *transaction) close() {
	t.abandon() // first: the connection waits for rows that are open
	_ = t.conn.Close()
}

// mortal returns a context that ends with the transaction for a statement, or rows, whose own never does.
func (t *transaction) mortal(ctx context.Context) context.Context {
	if ctx.Done() != nil {
		return ctx
	}
	return mortal{ctx, t.life}
}

// A mortal has the values of one context and the end of another.
type mortal struct {
	context.Context
	life context.Context
}

func (m mortal) Deadline() (time.Time, bool) { return m.life.Deadline() }
func (m mortal) Done() <-chan struct{}       { return m.life.Done() }
func (m mortal) Err() error                  { return m.life.Err() }

// rollback undoes everything. A connection on which that fails is not used again.
func (t *transaction) rollback() {
	var err error
	if t.tx != nil {
		err = t.answered(t.tx.Rollback)
	} else {
		err = t.open.rollback()
	}
	if err != nil && !errors.Is(err, sql.ErrTxDone) {
		t.discard()
	}
}

func (t *transaction) discard() {
	_ = t.conn.Raw(func(any) error { return driver.ErrBadConn })
}

// commit makes everything durable, or finds out whether it did.
func (t *transaction) commit() error {
	if t.tx == nil {
		if err := t.open.end("COMMIT"); err != nil {
			t.rollback()
			return fmt.Errorf("uow: commit: %w", err)
		}
		return nil
	}
	r, needless, err := t.sign()
	if err != nil {
		t.rollback()
		return fmt.Errorf("uow: commit: %w", err)
	}
	err = t.answered(t.tx.Commit)
	switch {
	case err == nil || t.unit.dialect.refused(err):
		t.unit.giveBack(r)
		if err != nil {
			err = fmt.Errorf("uow: commit: %w", err)
		}
		return err
	case needless:
		t.discard()
		return nil
	}
	t.discard()
	return t.unit.findOut(r, err)
}

// ruin notes why the transaction can only roll back. The first cause stands.
func (t *transaction) ruin(cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.doom == nil {
		t.doom = cause
	}
}

func (t *transaction) cause() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.doom
}

func (t *transaction) doomed() bool { return t.cause() != nil }
