package debezium

import (
	"context"
	"database/sql"
	"errors"
)

// A slot is what the server says of a replication slot.
type slot struct {
	reader    int64 // process that serves the connector
	confirmed bool  // up to the mark asked for
}

// slot asks for the slot, and whether its reader has confirmed everything up to mark, which may be "".
func (p *Pruner) slot(ctx context.Context, mark string) (s slot, err error) {
	if mark == "" {
		mark = "FFFFFFFF/FFFFFFFF"
	}
	var reader sql.NullInt64
	var confirmed, lost sql.NullBool
	err = p.pool.QueryRowContext(ctx, `SELECT active_pid, confirmed_flush_lsn >= $2::pg_lsn, wal_status = 'lost'
		FROM pg_replication_slots WHERE slot_name = $1 AND slot_type = 'logical' AND database = current_database()`,
		p.cfg.Slot, mark).Scan(&reader, &confirmed, &lost)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return s, ErrNoSlot
	case err != nil:
		return s, err
	case lost.Bool:
		return s, ErrLost
	case !reader.Valid || !confirmed.Valid: // without a position it is being created, and so is the connector's snapshot
		return s, ErrInactive
	}
	s.reader, s.confirmed = reader.Int64, confirmed.Bool
	return s, nil
}

// A round is a set of committed rows, and a place in the log behind their commits. Once the slot has confirmed
// that place, nothing needs the rows any more.
type round struct {
	seqs   []int64
	mark   string
	reader int64 // must not change meanwhile: another one may read another slot of the same name
}

// survey reads the rows that a round is about; the round has none if there are none.
func (p *Pruner) survey(ctx context.Context) (r round, err error) {
	s, err := p.slot(ctx, "")
	if err != nil {
		return r, err
	}
	r.reader = s.reader
	rows, err := p.pool.QueryContext(ctx, "SELECT seq FROM outbox ORDER BY seq LIMIT $1", p.cfg.Round)
	if err != nil {
		return r, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var seq int64
		if err := rows.Scan(&seq); err != nil {
			return r, err
		}
		r.seqs = append(r.seqs, seq)
	}
	if err := rows.Err(); err != nil || len(r.seqs) == 0 {
		return r, err
	}
	// A record of our own in the log is behind everything that the slot has confirmed so far, and on a quiet
	// server it is what the connector confirms next.
	const emit = "SELECT pg_logical_emit_message(false, 'surge.outbox', '')::text"
	return r, p.pool.QueryRowContext(ctx, emit).Scan(&r.mark)
}

// settled reports whether the slot has confirmed a round, and whether the round is void because somebody else reads
// the slot now.
func (p *Pruner) settled(ctx context.Context, r round) (confirmed, void bool, err error) {
	s, err := p.slot(ctx, r.mark)
	if err != nil {
		return false, true, err
	}
	if s.reader != r.reader {
		return false, true, nil
	}
	return s.confirmed, false, nil
}
