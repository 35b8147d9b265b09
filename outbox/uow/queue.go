package uow

import (
	"context"
	"errors"
	"fmt"

	"gorm.io/gorm"
)

// A Pipeline sends many statements to the server in one round trip.
type Pipeline interface {
	// Exec runs statements on conn, a connection of the database/sql driver's, one after the other up to the first
	// that fails. It returns how many rows each of them changed or found, and the error of the one that failed.
	Exec(ctx context.Context, conn any, statements []Statement) (rows []int64, err error)
}

// A Statement is one for a [Pipeline].
type Statement struct {
	SQL  string // with the database's own placeholders
	Args []any
	Row  []any // of a query: where the columns of its only row go, as in [sql.Row.Scan]; nil for what changes rows
}

// Queue runs an INSERT, UPDATE, DELETE or MERGE, in GORM's notation, whose result fn does not need at once. With
// [Config.Pipeline] it returns before the statement is sent: that is together with all that wait, in order, before the
// next other statement of the transaction, whoever's it is, and at last before the commit. So many parts take few round
// trips, which is most of what a small statement costs, and every statement still sees what those before it did.
//
// If the statement then fails, the transaction rolls back and the part runs again alone, where Queue sends at once and
// returns the error to fn. Without a Pipeline it always does. So fn must not rely on Queue having failed, nor on its
// having succeeded, and needs nothing else. What args point to must not change before the
// outermost Do returns. Errors: those of the database; [ErrNoTransaction]; [ErrDoomed].
func Queue(ctx context.Context, query string, args ...any) error {
	return queueStatement(ctx, nil, query, args)
}

// QueueRaw is [Queue] for a statement in the database's own notation. Arguments go to the driver as they are, so arrays
// stay arrays.
func QueueRaw(ctx context.Context, query string, args ...any) error {
	f, err := queuing(ctx, query)
	if err != nil {
		return err
	}
	if !f.tx.pipelined() {
		_, err := f.pool.ExecContext(ctx, query, args...)
		return err
	}
	return f.queue(pending{Statement: Statement{SQL: query, Args: args}, frame: f})
}

// QueueOne is [Queue] for a statement that has to change exactly one row: a guarded UPDATE, or one that compares a
// version. If it changes none, or more, the part fails as if the statement had, with the error otherwise. That costs
// the other parts of the transaction a second run, so it is for what seldom happens; where many are refused, as when
// stock runs out, execute the statement and look at RowsAffected.
func QueueOne(ctx context.Context, otherwise error, query string, args ...any) error {
	if otherwise == nil {
		return errors.New("uow: QueueOne needs the error to fail with, got nil")
	}
	return queueStatement(ctx, otherwise, query, args)
}

// A pending statement waits to be sent.
type pending struct {
	Statement
	frame     *frame
	otherwise error // unless it changes one row; nil if any number will do
}

func queueStatement(ctx context.Context, otherwise error, query string, args []any) error {
	f, err := queuing(ctx, query)
	if err != nil {
		return err
	}
	if !f.tx.pipelined() {
		return execute(f.handle(ctx), otherwise, query, args)
	}
	built := f.handle(ctx).Session(&gorm.Session{DryRun: true}).Exec(query, args...)
	if built.Error != nil {
		return built.Error
	}
	return f.queue(pending{Statement{SQL: built.Statement.SQL.String(), Args: built.Statement.Vars}, f, otherwise})
}

// queuing returns the frame of ctx, if the statement may be queued there.
func queuing(ctx context.Context, query string) (*frame, error) {
	f := frameOf(ctx)
	if f == nil {
		return nil, ErrNoTransaction
	}
	if k := kindOf(query); k != change && k != other {
		return nil, fmt.Errorf("uow: Queue is for statements that change rows, got %q", query)
	}
	return f, ctx.Err()
}

func execute(db *gorm.DB, otherwise error, query string, args []any) error {
	done := db.Exec(query, args...)
	if done.Error == nil && otherwise != nil && done.RowsAffected != 1 {
		return otherwise
	}
	return done.Error
}

// pipelined reports whether statements may wait. With savepoints each is sent by itself, so that it is known which
// part has failed, and what there is to roll back to.
func (t *transaction) pipelined() bool { return t.unit.cfg.Pipeline != nil && !t.savepoints }

func (f *frame) queue(q pending) error {
	f.tx.mu.Lock()
	defer f.tx.mu.Unlock()
	if err := f.unusable(); err != nil {
		return err
	}
	f.tx.queue = append(f.tx.queue, q)
	return nil
}

// drain sends what is queued, and a last statement with it. If that fails, the transaction can only roll back.
// PartTimeout bounds it to a half, so that the part that happens to be next is not taken for hung.
func (t *transaction) drain(last ...Statement) error {
	if !t.pipelined() {
		return nil
	}
	t.draining.Lock()
	defer t.draining.Unlock()
	list := t.dequeue()
	statements := make([]Statement, len(list), len(list)+len(last))
	for i := range list {
		statements[i] = list[i].Statement
	}
	if statements = append(statements, last...); len(statements) == 0 {
		return nil
	}
	limit := t.unit.cfg.PartTimeout
	if limit > 0 {
		limit /= 2
	}
	ctx, cancel := t.unit.boundedBy(limit)
	defer cancel()
	rows, err := t.pipe(ctx, statements)
	if err == nil && len(rows) != len(statements) {
		err = fmt.Errorf("uow: the Pipeline answered for %d of %d statements", len(rows), len(statements))
	}
	return t.drained(list, rows, err)
}

// pipe sends statements over the transaction's connection. Raw must hear neither of a panic, as of an argument's Value,
// nor of [driver.ErrBadConn]: it would close the connection, and for that wait for the transaction, which waits for it.
func (t *transaction) pipe(ctx context.Context, statements []Statement) (rows []int64, err error) {
	if raw := t.conn.Raw(func(conn any) error {
		err = guard(func() (err error) {
			rows, err = t.unit.cfg.Pipeline.Exec(ctx, conn, statements)
			return err
		})
		return nil
	}); raw != nil {
		return nil, raw
	}
	return rows, err
}

// dequeue takes what is queued. From now on its parts have written.
func (t *transaction) dequeue() []pending {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.queue
	t.queue, t.sent = nil, t.sent+len(list)
	for i := range list {
		for f := list[i].frame; f != nil; f = f.parent {
			f.wrote = true
		}
		t.changed = true
	}
	return list
}

// drained looks for the first statement that did not do what it should.
func (t *transaction) drained(list []pending, rows []int64, err error) error {
	if err != nil && t.unit.dialect.transient(err) {
		t.ruin(err)
		return err
	}
	for i := range list {
		var why error
		switch {
		case i >= len(rows):
			why = err
		case list[i].otherwise != nil && rows[i] != 1:
			why = list[i].otherwise
		}
		if why != nil {
			failed := &queueError{list[i].frame.part(), why}
			t.ruin(failed)
			return failed
		}
	}
	if err != nil {
		t.ruin(err)
	}
	return err
}

// A queueError is the cause of a transaction's end when a statement that was queued failed. In a run with savepoints
// the part gets the error itself.
type queueError struct {
	call *call // whose statement it was; nil for a hook's
	err  error
}

func (e *queueError) Error() string { return e.err.Error() }
func (e *queueError) Unwrap() error { return e.err }
