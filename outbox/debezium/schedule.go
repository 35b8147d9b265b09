package debezium

import (
	"context"
	"database/sql"
	"time"
)

// maxDue bounds the scheduled messages that move in one statement.
const maxDue = 500

// now is in microseconds since 1970, by the database's clock.
const now = "(extract(epoch from clock_timestamp()) * 1000000)::bigint"

// move is one statement. One pruner or relay at a time, which locks a row that all agree on, moves what is due, so that
// messages of a key stay in order. The transaction has its number before the first seq is taken, as all that write to
// the outbox, so that a relay may take over at any moment.
const move = `WITH mover AS MATERIALIZED (
		SELECT value FROM outbox_meta WHERE name = 'shards' FOR UPDATE SKIP LOCKED
	), due AS (
		SELECT seq FROM outbox_scheduled WHERE due_at <= ` + now + ` AND EXISTS (SELECT FROM mover)
		ORDER BY due_at, seq LIMIT $1 FOR UPDATE SKIP LOCKED
	), gone AS (
		DELETE FROM outbox_scheduled USING due WHERE outbox_scheduled.seq = due.seq RETURNING outbox_scheduled.*
	)
	INSERT INTO outbox (shard, id, topic, aggregateid, type, headers, payload)
	SELECT shard, id, topic, aggregateid, type, headers, payload FROM gone
	WHERE pg_current_xact_id() IS NOT NULL ORDER BY due_at, seq`

// moveLoop moves scheduled messages into the outbox when they are due.
func (p *Pruner) moveLoop(ctx context.Context) {
	for ctx.Err() == nil {
		wait, err := p.moveDue(ctx)
		if err != nil && ctx.Err() == nil {
			p.cfg.Logger.Warn("outbox cannot move scheduled messages", "error", err)
		}
		p.moves.note(err)
		_ = sleep(ctx, wait)
	}
}

// moveDue moves what is due and returns how long to wait. It writes only if there is something to move.
func (p *Pruner) moveDue(ctx context.Context) (time.Duration, error) {
	p.moves.begin()
	var next sql.NullInt64
	err := p.pool.QueryRowContext(ctx, "SELECT min(due_at) - "+now+" FROM outbox_scheduled").Scan(&next)
	switch {
	case err != nil:
		return p.cfg.Interval, err
	case !next.Valid:
		p.moves.done()
		return p.cfg.Interval, nil
	case next.Int64 > 0:
		p.moves.done()
		return time.Duration(min(next.Int64, p.cfg.Interval.Microseconds())) * time.Microsecond, nil
	}
	res, err := p.pool.ExecContext(ctx, move, maxDue)
	if err != nil {
		return p.cfg.Interval, err
	}
	n, err := res.RowsAffected()
	if err != nil || n == 0 { // another pruner has them
		return p.cfg.Interval, err
	}
	p.moves.done()
	p.moved.Add(uint64(n)) //nolint:gosec // not negative
	return 0, nil
}
