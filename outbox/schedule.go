package outbox

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/surge-go/surge/outbox/uow"
)

// maxDue bounds the scheduled messages that move in one transaction.
const maxDue = 500

// scheduleLoop moves scheduled messages into the outbox when they are due. Any relay may do it, since the rows
// are locked; on databases with one writer it only writes when there is something to move.
func (r *Relay) scheduleLoop(ctx context.Context) {
	for tries := 0; ctx.Err() == nil; {
		r.begin(choreSchedule)
		wait, err := r.moveDue(ctx)
		r.end(choreSchedule, err)
		switch {
		case errors.Is(err, errLocked): // by another relay, as a rule
			wait = minPoll
		case err != nil:
			if ctx.Err() == nil {
				r.cfg.Logger.Warn("outbox cannot move scheduled messages", "error", err)
			}
			wait = r.backoff(tries)
			tries++
		default:
			tries = 0
		}
		if wait > 0 {
			r.waiting.wait(ctx, wait)
		}
	}
}

// moveDue moves what is due and returns how long to wait.
func (r *Relay) moveDue(ctx context.Context) (time.Duration, error) {
	var next sql.NullInt64
	err := r.pool.QueryRowContext(ctx, r.dialect.sql("SELECT min(due_at) - {now} FROM outbox_scheduled")).Scan(&next)
	if err != nil {
		return 0, err
	}
	if wait := time.Duration(next.Int64) * time.Microsecond; !next.Valid || wait > 0 {
		if !next.Valid {
			return r.cfg.MaxPoll, nil
		}
		return min(wait, r.cfg.MaxPoll), nil
	}
	var moved int
	err = r.unit.Do(ctx, func(ctx context.Context) error {
		moved = 0
		return r.moveDueIn(execer{ctx, uow.DB(ctx).Statement.ConnPool, r.dialect}, &moved)
	})
	if err == nil && moved == 0 {
		return 0, errLocked
	}
	if err == nil {
		r.outbox.wake() // they may be any relay's
	}
	return 0, err
}

func (r *Relay) moveDueIn(x execer, moved *int) error {
	lock := ""
	if !r.dialect.sqlite() {
		lock = " FOR UPDATE SKIP LOCKED"
	}
	var seqs []int64
	err := x.query("SELECT seq FROM outbox_scheduled WHERE due_at <= {now} ORDER BY due_at, seq LIMIT ?"+lock,
		[]any{maxDue}, func(rows *sql.Rows) error {
			var seq int64
			err := rows.Scan(&seq)
			seqs = append(seqs, seq)
			return err
		})
	if err != nil || len(seqs) == 0 {
		return err
	}
	where, args := r.dialect.among("seq", seqs)
	if r.dialect.postgres() {
		where += " AND pg_current_xact_id() IS NOT NULL"
	}
	_, err = x.exec("INSERT INTO outbox ("+columns+") SELECT "+columns+
		" FROM outbox_scheduled WHERE "+where+" ORDER BY due_at, seq", args...)
	if err != nil {
		return err
	}
	where, args = r.dialect.among("seq", seqs)
	_, err = x.exec("DELETE FROM outbox_scheduled WHERE "+where, args...)
	*moved = len(seqs)
	return err
}
