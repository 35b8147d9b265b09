package outbox

import (
	"database/sql"
	"time"
)

// A mark waits for the moment from which no message can appear before a position any more.
type mark struct {
	set  bool
	upTo int64
	xid  int64     // PostgreSQL: every transaction that may hold a lower number began before this one
	at   time.Time // elsewhere
}

// A query reads the table on behalf of a reader.
type query struct {
	execer
	rd *reader
}

// top returns the highest seq that is visible. Reads that follow see at least what it saw.
func (q query) top() (int64, error) {
	var top sql.NullInt64
	err := q.conn.QueryRowContext(q.ctx, "SELECT max(seq) FROM outbox").Scan(&top)
	return top.Int64, err
}

// filter limits a read to the scan's topics and to our shards.
func (q query) filter(s *scan, args []any) (string, []any) {
	where := ""
	if s.topic != "" {
		where += " AND topic = ?"
		args = append(args, s.topic)
	} else {
		for name := range q.rd.behind {
			where += " AND topic <> ?"
			args = append(args, name)
		}
	}
	if q.rd.whole {
		return where, args
	}
	var shards []int64
	for shard, epoch := range q.rd.epochs {
		if epoch != 0 {
			shards = append(shards, int64(shard))
		}
	}
	cond, more := q.dialect.among("shard", shards)
	return where + " AND " + cond, append(args, more...)
}

// rows reads messages in order.
func (q query) rows(s *scan, until int64, limit int) ([]record, error) {
	where, args := q.filter(s, []any{s.pos, until})
	recs := make([]record, 0, min(limit, 128))
	err := q.query("SELECT seq, "+columns+" FROM outbox WHERE seq > ? AND seq <= ?"+where+" ORDER BY seq LIMIT ?",
		append(args, limit), func(rows *sql.Rows) error {
			var rec record
			err := rec.scan(rows)
			recs = append(recs, rec)
			return err
		})
	return recs, err
}

// horizon returns the number of a transaction that begins now, and the number below which all have ended.
// (The xmax of a snapshot would not do for the first: transactions above it may have begun.)
func (q query) horizon() (now, ended int64, err error) {
	if !q.dialect.postgres() {
		return 0, 0, nil
	}
	err = q.conn.QueryRowContext(q.ctx, `SELECT pg_current_xact_id()::text::bigint,
		pg_snapshot_xmin(pg_current_snapshot())::text::bigint`).Scan(&now, &ended)
	return now, ended, err
}

// lookBack returns messages up to the scan's position that are not in our hands, and moves up the point from which
// it is necessary to look. It reports whether it saw all of them.
func (rd *reader) lookBack(q query, s *scan) (late []record, complete bool, err error) {
	now, ended, err := q.horizon()
	if err != nil {
		return nil, false, err
	}
	seqs, complete, err := rd.unknown(q, s)
	if err != nil {
		return nil, false, err
	}
	settled := s.mark.xid < ended
	if !q.dialect.postgres() {
		settled = time.Since(s.mark.at) > rd.relay.cfg.MaxTransaction
	}
	if s.mark.set && settled && complete {
		s.low, s.mark = max(s.low, min(s.mark.upTo, s.pos)), mark{}
	}
	if !s.mark.set {
		s.mark = mark{set: true, upTo: s.pos, xid: now, at: time.Now()}
	}
	if len(seqs) > 0 {
		late, err = q.exactly(seqs)
	}
	return late, complete, err
}

// unknown lists what lies between a scan's low and its position and is not in our hands.
func (rd *reader) unknown(q query, s *scan) (seqs []int64, complete bool, err error) {
	limit, n := len(rd.window)+rd.relay.cfg.Buffer, 0
	where, args := q.filter(s, []any{s.low, s.pos})
	err = q.query("SELECT seq FROM outbox WHERE seq > ? AND seq <= ?"+where+" ORDER BY seq LIMIT ?",
		append(args, limit), func(rows *sql.Rows) error {
			var seq int64
			err := rows.Scan(&seq)
			if _, known := rd.window[seq]; !known {
				seqs = append(seqs, seq)
			}
			n++
			return err
		})
	return seqs, n < limit, err
}

// exactly reads the messages with the given keys, in order.
func (q query) exactly(seqs []int64) ([]record, error) {
	recs := make([]record, 0, len(seqs))
	where, args := q.dialect.among("seq", seqs)
	err := q.query("SELECT seq, "+columns+" FROM outbox WHERE "+where+" ORDER BY seq", args, func(rows *sql.Rows) error {
		var rec record
		err := rec.scan(rows)
		recs = append(recs, rec)
		return err
	})
	return recs, err
}

// shards lists the shards that are ours.
func (r *Relay) shards() (list []int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for shard := range r.held {
		list = append(list, int64(shard))
	}
	return list
}
