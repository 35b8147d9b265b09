package outbox

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"time"

	"github.com/surge-go/surge/outbox/uow"
)

// micros is a duration of so many microseconds, of which it holds 292 years.
func micros(n int64) time.Duration {
	return time.Duration(min(max(n, math.MinInt64/1000), math.MaxInt64/1000)) * time.Microsecond
}

// maxDue bounds the scheduled messages that move in one transaction.
const maxDue = 500

// scheduleLoop moves scheduled messages into the outbox when they are due. Any relay may do it, one at a time; on
// databases with one writer it only writes when there is something to move.
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
	var first, next int64
	err := r.pool.QueryRowContext(ctx, r.dialect.sql(
		"SELECT seq, due_at - {now} FROM outbox_scheduled ORDER BY due_at, seq LIMIT 1")).Scan(&first, &next)
	if errors.Is(err, sql.ErrNoRows) {
		return r.cfg.MaxPoll, nil
	}
	if err != nil {
		return 0, err
	}
	if next > 0 {
		return micros(min(next, r.cfg.MaxPoll.Microseconds())), nil
	}
	var moved int
	err = r.unit.Do(ctx, func(ctx context.Context) error {
		moved = 0
		return r.moveDueIn(execer{ctx, uow.DB(ctx).Statement.ConnPool, r.dialect}, &moved)
	})
	if err == nil && moved == 0 {
		if r.due != first { // who has them gets on
			r.due = first
			return minPoll, nil
		}
		return 0, errLocked
	}
	if err == nil {
		r.outbox.wake() // they may be any relay's
	}
	return 0, err
}

func (r *Relay) moveDueIn(x execer, moved *int) error {
	if err := r.hurry(x.ctx, x.conn); err != nil {
		return err
	}
	// Two that moved at once would pass over each other's rows, and could change the order of a key's messages. Whatever
	// moves locks this row first.
	mover, err := x.strings("SELECT value FROM outbox_meta WHERE name = 'shards'" + r.dialect.skip())
	if err != nil || len(mover) == 0 {
		return err
	}
	seqs, err := x.numbers("SELECT seq FROM outbox_scheduled WHERE due_at <= {now} ORDER BY due_at, seq LIMIT ?"+
		r.dialect.skip(), maxDue)
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
