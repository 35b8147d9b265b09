package uow

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/go-sql-driver/mysql"
)

// ErrOutcomeUnknown means that the answer to COMMIT was lost and could not be found out.
// The effects of fn may or may not be there. An [OutcomeError] can be asked again later.
var ErrOutcomeUnknown = errors.New("uow: the answer to COMMIT was lost")

// settleTime is how long the outcome of a COMMIT is asked for before the callers get ErrOutcomeUnknown.
const settleTime = 5 * time.Second

// An OutcomeError is an [ErrOutcomeUnknown] that remembers which transaction it is about.
type OutcomeError struct {
	unit    *UnitOfWork
	receipt receipt
	lost    error
}

func (e *OutcomeError) Error() string { return fmt.Sprintf("%v: %v", ErrOutcomeUnknown, e.lost) }

// Is reports whether target is [ErrOutcomeUnknown].
func (e *OutcomeError) Is(target error) bool { return target == ErrOutcomeUnknown }

// Unwrap returns what the connection said when COMMIT was sent.
func (e *OutcomeError) Unwrap() error { return e.lost }

// Resolve asks the database what became of the transaction, and waits until it knows or ctx ends. The callers that
// shared it share its outcome. The answer can be had for 23 hours. An error means that it is still unknown: that of the
// database, or [ErrOutcomeUnknown] for good where what tells of it is gone, or the table uow_outcomes is missing (MySQL
// and MariaDB).
func (e *OutcomeError) Resolve(ctx context.Context) (committed bool, err error) {
	if e.receipt == (receipt{}) {
		return false, ErrOutcomeUnknown
	}
	for try := 0; ; try++ {
		known, committed, err := e.unit.ask(ctx, e.receipt)
		if known || errors.Is(err, ErrOutcomeUnknown) {
			return committed, err
		}
		if err == nil {
			err = fmt.Errorf("%w, and its transaction has not ended", ErrOutcomeUnknown)
		}
		if ctx.Err() != nil {
			return false, fmt.Errorf("uow: resolve: %w", err)
		}
		backoff(try)
	}
}

// An receipt names a transaction to the server it ran on. The zero value names none.
type receipt struct {
	xid           string // PostgreSQL's transaction id
	writer, token string // MySQL and MariaDB: what its row of uow_outcomes says if it was committed

	at time.Time // when it was written
}

// keeps is how long after a COMMIT what tells of it can be relied on to be there: less than the day after which it is
// swept, by the clocks of two machines.
const keeps = 23 * time.Hour

const nameOfTransaction = "SELECT pg_current_xact_id_if_assigned()::text"

// finish sends what is still queued, and on PostgreSQL asks for the transaction's name at the same time.
func (t *transaction) finish() error {
	if t.unit.dialect != postgres || !t.pipelined() {
		return t.drain()
	}
	t.xid = new(sql.NullString)
	return t.drain(Statement{SQL: nameOfTransaction, Row: []any{t.xid}})
}

// sign makes the transaction one whose outcome can be asked for. PostgreSQL has a name for every transaction that
// writes; on MySQL and MariaDB the transaction writes a token. needless means that it changed nothing.
func (t *transaction) sign() (r receipt, needless bool, err error) {
	ctx, cancel := t.unit.bounded()
	defer cancel()
	switch {
	case t.unit.dialect == postgres:
		if t.xid == nil {
			t.xid = new(sql.NullString)
			err = t.tx.QueryRowContext(ctx, nameOfTransaction).Scan(t.xid)
		}
		return receipt{xid: t.xid.String}, err == nil && !t.xid.Valid, err
	case !t.changed:
		return receipt{}, true, nil
	case t.unit.unsigned.Load():
		return receipt{}, false, nil
	}
	r = receipt{writer: t.unit.borrow(), token: rand.Text(), at: time.Now()}
	_, err = t.tx.ExecContext(ctx, `INSERT INTO uow_outcomes (writer, token, written_at) VALUES (?, ?, UNIX_TIMESTAMP())
		ON DUPLICATE KEY UPDATE token = VALUES(token), written_at = VALUES(written_at)`, r.writer, r.token)
	if err == nil {
		return r, false, nil
	}
	t.unit.giveBack(r)
	if e := (*mysql.MySQLError)(nil); errors.As(err, &e) && e.Number == noSuchTable {
		t.unit.unsigned.Store(true)
		t.unit.cfg.Logger.Warn("without the table uow_outcomes a lost answer to COMMIT cannot be found out")
		return receipt{}, false, nil
	}
	return receipt{}, false, err
}

const noSuchTable = 1146

// borrow returns the name of a row of uow_outcomes that no other transaction uses.
func (u *UnitOfWork) borrow() (writer string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if n := len(u.receipts); n > 0 {
		writer = u.receipts[n-1]
		u.receipts = u.receipts[:n-1]
		return writer
	}
	return rand.Text()
}

// giveBack ends the use of a row, which the outcome of its last transaction is not asked of any more.
func (u *UnitOfWork) giveBack(r receipt) {
	if r.writer == "" {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.receipts = append(u.receipts, r.writer)
}

// findOut asks, on another connection, what became of a COMMIT without an answer. nil means that it was done.
func (u *UnitOfWork) findOut(r receipt, lost error) error {
	unknown := &OutcomeError{unit: u, receipt: r, lost: lost}
	ctx, cancel := context.WithTimeout(context.Background(), settleTime)
	defer cancel()
	committed, err := unknown.Resolve(ctx)
	if err != nil {
		return unknown // its row of uow_outcomes stays as it is
	}
	u.giveBack(r)
	if !committed {
		return fmt.Errorf("uow: commit: %w: %w", driver.ErrBadConn, lost)
	}
	return nil
}

// ask asks once. As long as the old server process holds the transaction open, nothing is known: PostgreSQL says so,
// MySQL and MariaDB let the query wait for the row.
func (u *UnitOfWork) ask(ctx context.Context, r receipt) (known, committed bool, err error) {
	if r.xid != "" {
		var status sql.NullString
		err = u.sql.QueryRowContext(ctx, "SELECT pg_xact_status($1::xid8)", r.xid).Scan(&status)
		if err == nil && !status.Valid { // so old that its outcome was truncated
			err = ErrOutcomeUnknown
		}
		return status.String == "committed" || status.String == "aborted", status.String == "committed", err
	}
	var token string
	err = u.sql.QueryRowContext(ctx, "SELECT token FROM uow_outcomes WHERE writer = ? FOR UPDATE", r.writer).Scan(&token)
	if errors.Is(err, sql.ErrNoRows) {
		if time.Since(r.at) > keeps {
			return false, false, ErrOutcomeUnknown
		}
		return true, false, nil
	}
	return err == nil, token == r.token, err
}

// sweepOutcomes deletes the rows of writers that are gone. It locks no row of one that is not.
func (u *UnitOfWork) sweepOutcomes(ctx context.Context) error {
	rows, err := u.sql.QueryContext(ctx,
		"SELECT writer FROM uow_outcomes WHERE written_at < UNIX_TIMESTAMP() - 86400 LIMIT 1000")
	if err != nil {
		return err
	}
	gone, err := scanAll(rows)
	if err != nil {
		return err
	}
	for _, writer := range gone {
		_, err := u.sql.ExecContext(ctx,
			"DELETE FROM uow_outcomes WHERE writer = ? AND written_at < UNIX_TIMESTAMP() - 86400", writer)
		if err != nil {
			return err
		}
	}
	return nil
}

func scanAll(rows *sql.Rows) (list []string, err error) {
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, rows.Err()
}
