package outbox

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"gorm.io/gorm"
)

// Stats is what an outbox holds, by the database's word.
//
// The numbers of messages are exact up to 20,000 and estimates beyond (Depth, Scheduled, Retrying and the shards'),
// or 20,000 for any more (Dead): a large backlog costs no more to look at than a small one.
type Stats struct {
	Depth     int64            // messages on their way
	Oldest    time.Duration    // age of the oldest of them; 0 if there is none
	Scheduled int64            // messages that wait for their time
	Overdue   time.Duration    // for how long the first of them should have moved; 0 if none is due
	Retrying  int64            // messages refused by the publisher, and those behind them
	Dead      int64            // messages given up, neither replayed nor discarded
	DeadBy    map[string]int64 // the same by topic
	Shards    []ShardStats     // by shard

	// Holder is what holds the horizon back; nil if nothing does, or HolderErr says why it is unknown: as a rule, for
	// want of a privilege (see [Holder]).
	Holder    *Holder
	HolderErr error
}

// ShardStats is what is known of one shard.
type ShardStats struct {
	Depth   int64
	Owner   string        // relay that holds the lease; "" if none
	Epoch   int64         // counts the owners it had
	Expires time.Duration // what is left of the lease; negative if it has expired
}

const (
	exactDepth = 20_000 // messages counted one by one
	samples    = 64     // places where the rest is counted
	sampleSpan = 250    // sequence numbers at each
)

// Stats counts. It reads some 36,000 rows of each table at most, whatever the backlog: tens of milliseconds, so ask
// every few seconds, not for every request. Errors are the database's.
func (o *Outbox) Stats(ctx context.Context) (Stats, error) {
	s := Stats{Shards: make([]ShardStats, Shards), DeadBy: map[string]int64{}}
	err := o.reads(ctx, func(conn gorm.ConnPool) error {
		x := execer{ctx, conn, o.dialect}
		if err := o.statsOfMessages(x, &s); err != nil {
			return err
		}
		if err := o.statsOfDead(x, &s); err != nil {
			return err
		}
		return o.statsOfLeases(x, &s)
	})
	if err != nil {
		return Stats{}, fmt.Errorf("outbox: stats: %w", err)
	}
	if s.Holder, s.HolderErr = o.holder(ctx); s.HolderErr != nil {
		s.HolderErr = fmt.Errorf("outbox: who holds the horizon back: %w", s.HolderErr)
	}
	return s, nil
}

func (o *Outbox) statsOfMessages(x execer, s *Stats) error {
	t, err := tallyOf(x, "outbox", "created_at")
	if err != nil {
		return err
	}
	s.Depth, s.Oldest = t.total(), max(0, t.age)
	for shard := range Shards {
		s.Shards[shard].Depth = t.shards[shard]
	}
	if t, err = tallyOf(x, "outbox_scheduled", "0 AS created_at"); err != nil {
		return err
	}
	s.Scheduled = t.total()
	if t, err = tallyOf(x, "outbox_retry", "0 AS created_at"); err != nil {
		return err
	}
	s.Retrying = t.total()
	var overdue sql.NullInt64
	err = x.conn.QueryRowContext(x.ctx, x.dialect.sql("SELECT {now} - min(due_at) FROM outbox_scheduled")).Scan(&overdue)
	s.Overdue = max(0, micros(overdue.Int64))
	return err
}

func (o *Outbox) statsOfDead(x execer, s *Stats) error {
	return x.query("SELECT topic, count(*) FROM (SELECT topic FROM outbox_dead WHERE state = 'dead' "+
		"ORDER BY seq LIMIT ?) AS x GROUP BY topic", []any{exactDepth}, func(rows *sql.Rows) error {
		var topic string
		var n int64
		err := rows.Scan(&topic, &n)
		s.DeadBy[topic] = n
		s.Dead += n
		return err
	})
}

func (o *Outbox) statsOfLeases(x execer, s *Stats) error {
	const leases = "SELECT shard, owner, epoch, CASE WHEN owner = '' THEN 0 ELSE expires_at - {now} END FROM outbox_lease"
	return x.query(leases, nil, func(rows *sql.Rows) error {
		var shard int
		var owner string
		var epoch, left int64
		if err := rows.Scan(&shard, &owner, &epoch, &left); err != nil {
			return err
		}
		if err := checkShard(shard); err != nil {
			return err
		}
		l := &s.Shards[shard]
		l.Owner, l.Epoch, l.Expires = owner, epoch, time.Duration(left)*time.Microsecond
		return nil
	})
}

// A tally counts the rows of a table by shard.
type tally struct {
	shards [Shards]int64
	age    time.Duration // of the oldest
	last   int64         // seq of the last row that was counted
}

func (t *tally) total() (n int64) {
	for _, s := range t.shards {
		n += s
	}
	return n
}

// tallyOf counts the first rows of a table, and estimates the number of the others from samples.
func tallyOf(x execer, table, created string) (t tally, err error) {
	err = x.query("SELECT shard, count(*), {now} - min(created_at), max(seq) FROM "+
		"(SELECT seq, shard, "+created+" FROM "+table+" ORDER BY seq LIMIT ?) AS x GROUP BY shard",
		[]any{exactDepth}, func(rows *sql.Rows) error {
			var shard int
			var n, age, last int64
			if err := rows.Scan(&shard, &n, &age, &last); err != nil {
				return err
			}
			if err := checkShard(shard); err != nil {
				return err
			}
			t.shards[shard] = n
			t.age, t.last = max(t.age, time.Duration(age)*time.Microsecond), max(t.last, last)
			return nil
		})
	if err != nil || t.total() < exactDepth {
		return t, err
	}
	var top sql.NullInt64
	if err := x.conn.QueryRowContext(x.ctx, "SELECT max(seq) FROM "+table).Scan(&top); err != nil {
		return t, err
	}
	return t, t.estimate(x, table, top.Int64)
}

// estimate adds the rows after the last one that was counted, up to top: exactly if the numbers between them are
// few, and else as many as evenly spread samples let expect.
func (t *tally) estimate(x execer, table string, top int64) error {
	gap := top - t.last
	if gap <= 0 {
		return nil
	}
	query, scale := "", 1.0
	if gap <= samples*sampleSpan {
		query = sampleSQL(table, t.last, top)
	} else {
		scale = float64(gap) / (samples * sampleSpan)
		for i := range int64(samples) {
			if i > 0 {
				query += " UNION ALL "
			}
			from := t.last + (gap-sampleSpan)*i/(samples-1)
			query += sampleSQL(table, from, from+sampleSpan)
		}
	}
	var found [Shards]int64
	err := x.query(query, nil, func(rows *sql.Rows) error {
		var shard int
		var n int64
		if err := rows.Scan(&shard, &n); err != nil {
			return err
		}
		if err := checkShard(shard); err != nil {
			return err
		}
		found[shard] += n
		return nil
	})
	for shard, n := range found {
		t.shards[shard] += int64(float64(n) * scale)
	}
	return err
}

func sampleSQL(table string, after, upTo int64) string {
	return "SELECT shard, count(*) FROM " + table + " WHERE seq > " + itoa(after) + " AND seq <= " + itoa(upTo) +
		" GROUP BY shard"
}
