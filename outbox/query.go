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

// lookBack looks, behind each scan's position, for messages that were committed after later ones, and moves up
// the point from which that is necessary.
func (rd *reader) lookBack(q query) (found bool, err error) {
	if !rd.open() {
		return false, nil
	}
	began := time.Now()
	now, ended, err := q.horizon()
	if err != nil {
		return false, err
	}
	scans := []*scan{rd.main}
	for _, s := range rd.behind {
		scans = append(scans, s)
	}
	for _, s := range scans {
		if s.low >= s.pos {
			continue
		}
		late, complete, err := rd.late(q, s)
		if err != nil {
			return found, err
		}
		found = found || late
		settled := s.mark.set && s.mark.xid < ended
		if !q.dialect.postgres() {
			settled = s.mark.set && time.Since(s.mark.at) > rd.relay.cfg.MaxTransaction
		}
		if settled && complete {
			s.low, s.mark = max(s.low, min(s.mark.upTo, s.pos)), mark{}
		}
		if !s.mark.set {
			s.mark = mark{set: true, upTo: s.pos, xid: now, at: began}
		}
	}
	rd.lookedBack = time.Now()
	rd.lookTook = rd.lookedBack.Sub(began)
	return found, nil
}

// late takes the messages between a scan's low and its position that are not in our hands. It reports whether it
// saw all of them.
func (rd *reader) late(q query, s *scan) (found, complete bool, err error) {
	limit := len(rd.window) + rd.relay.cfg.Buffer
	where, args := q.filter(s, []any{s.low, s.pos})
	var seqs []int64
	n := 0
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
	if err != nil || len(seqs) == 0 {
		return false, n < limit, err
	}
	var recs []record
	cond, more := q.dialect.among("seq", seqs)
	err = q.query("SELECT seq, "+columns+" FROM outbox WHERE "+cond+" ORDER BY seq", more, func(rows *sql.Rows) error {
		var rec record
		err := rec.scan(rows)
		recs = append(recs, rec)
		return err
	})
	if err != nil {
		return false, false, err
	}
	taken := rd.dispatch(s, recs, s.pos)
	return taken > 0, n < limit, nil
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
