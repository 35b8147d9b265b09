package uow

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"time"

	"gorm.io/gorm"
)

var (
	errHung   = fmt.Errorf("uow: fn exceeded Config.PartTimeout: %w", context.DeadlineExceeded)
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

	savepoints bool // failed frames are rolled back to a savepoint
	many       bool // parts share it
	names      int  // savepoints so far

	draining sync.Mutex // one goroutine at a time sends what is queued

	mu      sync.Mutex // fn may use its transaction from several goroutines
	doom    error      // why it can only roll back
	changed bool       // something was written
	gathers map[any]gather
	order   []any
	after   []func()
	queue   []pending
	sent    int // statements of the queue so far
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
	if u.dialect != sqlite {
		// The context of BeginTx would roll the transaction back when it ends, COMMIT included.
		t.tx, err = conn.BeginTx(context.Background(), &sql.TxOptions{Isolation: u.dialect.isolation()})
		t.exec = t.tx
	} else {
		t.open = &open{conn: conn}
		t.exec = t.open
		err = t.beginImmediate(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("uow: begin: %w", err)
	}
	return t, nil
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

func (t *transaction) close() { _ = t.conn.Close() }

// rollback undoes everything. A connection on which that fails is not used again.
func (t *transaction) rollback() {
	var err error
	if t.tx != nil {
		err = t.tx.Rollback()
	} else {
		err = t.open.end("ROLLBACK")
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
	err = t.tx.Commit()
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
