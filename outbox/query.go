package outbox

import (
	"database/sql"
	"maps"
	"math"
	"time"
)

// A mark waits, on MySQL and MariaDB, for the moment from which no message can appear before a position any more.
type mark struct {
	set  bool
	upTo int64
	at   time.Time
}

// A query reads the table on behalf of a reader.
type query struct {
	execer
	rd *reader
}

// top returns the highest seq that is visible behind a position, or the position. Reads that follow see at least what
// it saw.
func (q query) top(after int64) (int64, error) {
	var top sql.NullInt64
	err := q.conn.QueryRowContext(q.ctx, q.dialect.sql("SELECT max(seq) FROM outbox WHERE seq > ?"), after).Scan(&top)
	return max(top.Int64, after), err
}

// filter limits a read to the scan's topics and to our shards.
func (q query) filter(s *scan, args []any) (string, []any) {
	where := ""
	if s.topic != "" {
		is, more := q.dialect.is("topic", s.topic)
		where, args = " AND "+is, append(args, more...)
	} else {
		for name := range q.rd.behind {
			is, more := q.dialect.is("topic", name)
			where, args = where+" AND NOT ("+is+")", append(args, more...)
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

// rows reads messages in order. They are valid until the next call.
func (q query) rows(s *scan, until int64, limit int) ([]record, error) {
	where, args := q.filter(s, []any{s.pos, until})
	return q.records(q.rd.page[:0], "SELECT "+wanted+
		" FROM outbox WHERE seq > ? AND seq <= ?"+where+" ORDER BY seq LIMIT ?", append(args, limit)...)
}

// records appends the messages that a query for the wanted columns finds.
func (q query) records(recs []record, query string, args ...any) ([]record, error) {
	sc := newScanner()
	err := q.query(query, args, func(rows *sql.Rows) error {
		rec, err := sc.scan(rows)
		recs = append(recs, *rec)
		return err
	})
	return recs, err
}

// snapshot asks PostgreSQL which transactions are in progress, and for an id that it gives out after that.
func (q query) snapshot(id string) (s snapshot, now int64, err error) {
	var text string
	err = q.conn.QueryRowContext(q.ctx, "SELECT "+id+", pg_current_snapshot()::text").Scan(&now, &text)
	if err == nil {
		err = s.parse(text)
	}
	return s, now, err
}

// note takes notice of who may commit behind what is read now.
func (rd *reader) note(q query, top int64) error {
	if !q.dialect.postgres() || top <= rd.past.upTo {
		return nil
	}
	s, now, err := q.snapshot("pg_current_xact_id()::text::bigint")
	if err == nil {
		rd.past.note(s, now, top)
	}
	return err
}

// ended has the scans look back as far as transactions that have ended may reach, and reports whether any have.
func (rd *reader) ended(q query) (some bool, err error) {
	if len(rd.past.open) == 0 {
		return false, nil
	}
	snap, _, err := q.snapshot("0")
	if err != nil {
		return false, err
	}
	back := rd.past.ended(snap)
	rd.main.low = min(rd.main.low, back)
	for _, s := range rd.behind {
		s.low = min(s.low, back)
	}
	return back != math.MaxInt64, nil
}

// lookBack returns messages up to the scan's position that are not in our hands, and moves up the point from which
// it is necessary to look. It reports whether it saw all of them.
func (rd *reader) lookBack(q query, s *scan) (late []record, complete bool, err error) {
	asked := time.Now()
	seqs, complete, err := rd.unknown(q, s)
	if err != nil {
		return nil, false, err
	}
	if complete {
		rd.settle(s, asked)
	}
	if len(seqs) > 0 {
		late, err = q.exactly(seqs)
	}
	return late, complete, err
}

// settle notes that a scan has looked back, and when: the answer may have come much later.
func (rd *reader) settle(s *scan, asked time.Time) {
	if rd.relay.dialect.postgres() {
		s.low = s.pos
		return
	}
	if s.mark.set && asked.Sub(s.mark.at) > rd.relay.cfg.MaxTransaction {
		s.low, s.mark = max(s.low, min(s.mark.upTo, s.pos)), mark{}
	}
	if !s.mark.set {
		s.mark = mark{set: true, upTo: s.pos, at: asked}
	}
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
	where, args := q.dialect.among("seq", seqs)
	return q.records(make([]record, 0, len(seqs)), "SELECT "+wanted+" FROM outbox WHERE "+where+" ORDER BY seq", args...)
}

// epochs returns the leases that are ours.
func (r *Relay) epochs() map[int]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.held)
}
