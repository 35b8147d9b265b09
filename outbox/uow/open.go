package uow

import (
	"context"
	"database/sql"
	"sync"

	"gorm.io/gorm"
)

// An open is a connection to SQLite while our transaction is open on it. SQLite commits by itself what it is told
// outside of one, so a statement that comes after the end, from a part that was cut off, must not reach it.
type open struct {
	conn *sql.Conn
	mu   sync.RWMutex // held for writing by the end
	over bool
}

var _ gorm.ConnPool = (*open)(nil)

// end says COMMIT or ROLLBACK, once no statement is under way, and lets no other through.
func (o *open) end(query string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
	_, err := o.conn.ExecContext(context.Background(), query)
	return err
}

// rollback is end with ROLLBACK. SQLite may have rolled back by itself, and then refuses; only then can another
// transaction begin.
func (o *open) rollback() error {
	err := o.end("ROLLBACK")
	if err == nil {
		return nil
	}
	if _, still := o.conn.ExecContext(context.Background(), "BEGIN"); still == nil {
		_, err = o.conn.ExecContext(context.Background(), "ROLLBACK")
	}
	return err
}

func (o *open) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if o.over {
		return nil, errEnded
	}
	return o.conn.ExecContext(ctx, query, args...)
}

func (o *open) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if o.over {
		return nil, errEnded
	}
	return o.conn.QueryContext(ctx, query, args...)
}

func (o *open) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if o.over {
		return errorRow(ctx, errEnded)
	}
	return o.conn.QueryRowContext(ctx, query, args...)
}

func (o *open) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if o.over {
		return nil, errEnded
	}
	return o.conn.PrepareContext(ctx, query)
}

// gone reports whether a statement that failed has ended SQLite's transaction, as a constraint with ON CONFLICT
// ROLLBACK does, and RAISE(ROLLBACK) in a trigger. SQLite does not say; but only then can another one begin.
func (t *transaction) gone(err error) bool {
	if code, ok := sqliteCode(t.unit.dialect, err); !ok || code != sqliteConstraint {
		return false
	}
	ctx, cancel := t.unit.bounded()
	defer cancel()
	_, err = t.open.ExecContext(ctx, "BEGIN")
	return err == nil
}

const sqliteConstraint = 19
