package uow

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"

	"gorm.io/gorm"
)

// errOwner is returned by Commit and Rollback on the handle, and by statements that say so: they are not fn's to call.
var errOwner = errors.New("uow: the unit of work commits and rolls back; return an error to undo")

// A pool is the gorm.ConnPool of a frame. It sees every statement, so it knows whether the frame changed a row
// and whether the transaction can go on.
type pool struct{ f *frame }

var (
	_ gorm.ConnPool       = (*pool)(nil)
	_ gorm.TxCommitter    = (*pool)(nil) // makes gorm.DB.Transaction use savepoints inside
	_ gorm.Tx             = (*pool)(nil) // makes gorm's sessions with PrepareStmt stay in the transaction
	_ gorm.GetDBConnector = (*pool)(nil)
)

func (p *pool) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	kind := kindOf(query)
	if err := p.before(ctx, kind); err != nil {
		return nil, err
	}
	res, err := p.f.tx.exec.ExecContext(p.lasting(ctx), query, args...)
	p.after(kind, err, err == nil && changed(kind, res))
	if err == nil && (kind == save || kind == rollbackTo) {
		p.f.tx.saved(kind, query)
	}
	return res, err
}

func (p *pool) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	kind := kindOf(query)
	if err := p.before(ctx, kind); err != nil {
		return nil, err
	}
	ctx = p.f.tx.mortal(ctx)
	if p.f.tx.unit.dialect != sqlite && locks(kind, query) {
		all, err := p.readAll(ctx, kind, query, args)
		if err != nil {
			return nil, err
		}
		return all.rows(ctx)
	}
	rows, err := p.f.tx.exec.QueryContext(ctx, query, args...)
	p.after(kind, err, kind != read && kind != save)
	return rows, err
}

func (p *pool) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	kind := kindOf(query)
	if err := p.before(ctx, kind); err != nil {
		return errorRow(ctx, err)
	}
	ctx = p.f.tx.mortal(ctx)
	if p.f.tx.unit.dialect != sqlite && locks(kind, query) {
		all, err := p.readAll(ctx, kind, query, args)
		if err != nil {
			return errorRow(ctx, err)
		}
		return all.row(ctx)
	}
	row := p.f.tx.exec.QueryRowContext(ctx, query, args...)
	p.after(kind, row.Err(), kind != read && kind != save)
	return row
}

// readAll runs a query of which the end of its rows tells whether the transaction is still there.
func (p *pool) readAll(ctx context.Context, kind kind, query string, args []any) (*replay, error) {
	all, err := record(p.f.tx.exec.QueryContext(ctx, query, args...))
	p.after(kind, err, kind != read && kind != save)
	return all, err
}

// PrepareContext cannot see what the statement will do, so it counts as a write; nor does it hear how that ends. Only
// PostgreSQL stops a transaction in which a statement has failed: on MySQL a deadlock that fn passes over would end the
// transaction, and what follows would commit by itself. On SQLite the statement could outlive the transaction, too.
func (p *pool) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	if p.f.tx.unit.dialect != postgres {
		return nil, errPrepared
	}
	kind := other
	if kindOf(query) == ending {
		kind = ending
	}
	if err := p.before(ctx, kind); err != nil {
		return nil, err
	}
	stmt, err := p.f.tx.exec.PrepareContext(ctx, query)
	p.after(other, err, true)
	return stmt, err
}

// StmtContext serves gorm's sessions with PrepareStmt. It counts as a write, too, and fails where PrepareContext does.
func (p *pool) StmtContext(ctx context.Context, stmt *sql.Stmt) *sql.Stmt {
	err := errPrepared
	if p.f.tx.unit.dialect == postgres {
		err = p.before(ctx, other)
	}
	if err != nil {
		return new(sql.Tx).StmtContext(refusal{ctx, err}, stmt)
	}
	defer p.after(other, nil, true)
	return p.f.tx.tx.StmtContext(ctx, stmt)
}

var errPrepared = errors.New("uow: prepared statements, as of a session with PrepareStmt, can join on PostgreSQL only")

// A refusal is a context that has ended with err: what is bound to a transaction with it fails with err.
type refusal struct {
	context.Context
	err error
}

func (r refusal) Done() <-chan struct{} { return ended }
func (r refusal) Err() error            { return r.err }

var ended = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// lasting returns the context for a statement without rows. One that could be canceled costs a goroutine in SQLite's
// driver. SQLite works in this process and waits for nobody, so such a statement runs to its end, and the next one is
// refused. Queries keep their context: the rows of a part that is cut off must be closed for it, or the connection,
// and with it every neighbor, would wait for them.
func (p *pool) lasting(ctx context.Context) context.Context {
	if p.f.tx.unit.dialect == sqlite {
		return context.WithoutCancel(ctx)
	}
	return p.f.tx.mortal(ctx)
}

func (p *pool) Commit() error   { return errOwner }
func (p *pool) Rollback() error { return errOwner }

// GetDBConn refuses what gorm.DB.DB and gorm.DB.Connection ask for: it would be another connection.
func (p *pool) GetDBConn() (*sql.DB, error) { return nil, errOther }

var errOther = errors.New("uow: the transaction has one connection, and it is the unit of work's")

// before says why a statement may not run, and sets the savepoint it needs. If it may, after must be called.
func (p *pool) before(ctx context.Context, k kind) error {
	if k == ending {
		return errOwner
	}
	if err := p.f.begin(false); err != nil {
		if !p.allowed(k) {
			return err
		}
		return p.f.begin(true)
	}
	err := p.prepare(ctx, k)
	if err != nil {
		p.f.done()
	}
	return err
}

func (p *pool) prepare(ctx context.Context, k kind) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := p.f.tx.drain(); err != nil {
		return fmt.Errorf("%w: %w", ErrDoomed, err)
	}
	// A failed statement of any kind poisons a PostgreSQL transaction; elsewhere only writes need undoing, and fn's
	// own savepoint must come after ours, or rolling back to it would take ours away.
	if k != rollbackTo && (k != read || p.f.tx.unit.dialect == postgres) {
		return p.f.protect(ctx)
	}
	return nil
}

// allowed reports whether a statement may run though others may not: one that rolls back to a savepoint makes the
// transaction usable again, and on MySQL one that restores a variable of the session is for the connection's next
// user. It writes nothing that could commit by itself.
func (p *pool) allowed(k kind) bool {
	switch k {
	case rollbackTo:
		return !p.f.tx.doomed() && !p.f.ended()
	case session:
		return p.f.tx.unit.dialect == mariadb && !p.f.ended()
	}
	return false
}

// after notes what a statement did.
func (p *pool) after(k kind, err error, wrote bool) {
	t := p.f.tx
	ended := err != nil && (t.unit.dialect.ends(err) || t.gone(err))
	if err != nil {
		wrote = !ended && t.partly(k)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p.f.count(-1)
	p.f.wrote = p.f.wrote || wrote
	t.changed = t.changed || wrote
	switch {
	case err == nil:
		if k == rollbackTo {
			p.f.heal()
		}
	case ended:
		if t.doom == nil {
			t.doom = err
		}
	case t.unit.dialect == postgres:
		p.f.poison(err)
	}
}

// partly reports whether a statement that failed may have changed rows nevertheless: it was several, or it was SQLite's
// ON CONFLICT FAIL, which keeps those that came before the fault.
func (t *transaction) partly(k kind) bool {
	switch {
	case t.unit.dialect == postgres:
		return false // where it poisons the transaction
	case k != change:
		return k == other
	case t.unit.dialect == mariadb:
		return false
	}
	ctx, cancel := t.unit.bounded()
	defer cancel()
	rows := 0
	err := t.open.QueryRowContext(ctx, "SELECT changes()").Scan(&rows)
	return err != nil || rows > 0
}

// poison marks the frame, and those around it that share its savepoint's fate, as failed.
func (f *frame) poison(err error) {
	for ; f != nil; f = f.parent {
		if f.poisoned == nil {
			f.poisoned = err
		}
		if f.savepoint != "" {
			return
		}
	}
}

// heal takes poison back: after a rollback to a savepoint PostgreSQL's transaction works again.
func (f *frame) heal() {
	for ; f != nil; f = f.parent {
		f.poisoned = nil
		if f.savepoint != "" {
			return
		}
	}
}

// kind is what the pool knows of a statement before it runs.
type kind int

const (
	read       kind = iota
	change          // INSERT, UPDATE, DELETE: it wrote if rows were affected
	save            // SAVEPOINT, by gorm's nested Transaction
	rollbackTo      // ROLLBACK TO SAVEPOINT, by the same
	session         // SET; counts as a write
	ending          // COMMIT, ROLLBACK of everything, BEGIN: refused
	other           // counts as a write
)

func kindOf(query string) kind {
	if _, more, _ := strings.Cut(query, ";"); strings.TrimSpace(more) != "" {
		return other // several, as far as is known
	}
	q := strings.TrimLeft(query, " \t\r\n(")
	for strings.HasPrefix(q, "--") || strings.HasPrefix(q, "/*") {
		_, rest, ok := strings.Cut(q, map[bool]string{true: "\n", false: "*/"}[q[0] == '-'])
		if !ok {
			return other
		}
		q = strings.TrimLeft(rest, " \t\r\n(")
	}
	word := q
	if i := strings.IndexAny(q, " \t\r\n(;"); i >= 0 {
		word = q[:i]
	}
	switch strings.ToUpper(word) {
	case "SELECT", "SHOW", "VALUES", "RELEASE":
		return read
	case "SAVEPOINT":
		return save
	case "SET":
		return session
	case "INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE":
		return change
	case "ROLLBACK":
		if slices.Contains(strings.Fields(strings.ToUpper(q)), "TO") {
			return rollbackTo
		}
		return ending
	case "COMMIT", "END", "ABORT", "BEGIN", "START":
		return ending
	}
	return other
}

func changed(k kind, res sql.Result) bool {
	if k == read || k == save || k == rollbackTo {
		return false
	}
	if k == change {
		if n, err := res.RowsAffected(); err == nil {
			return n > 0
		}
	}
	return true
}

// errorRow returns a Row that carries err; only database/sql can make one.
func errorRow(ctx context.Context, err error) *sql.Row {
	db := sql.OpenDB(failing{err})
	defer func() { _ = db.Close() }()
	return db.QueryRowContext(ctx, "")
}

type failing struct{ err error }

func (f failing) Connect(context.Context) (driver.Conn, error) { return nil, f.err }
func (f failing) Driver() driver.Driver                        { return nil }
