package outbox

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Stats is what an outbox holds, by the database's word.
type Stats struct {
	Depth     int64         // messages on their way
	Oldest    time.Duration // age of the oldest of them; 0 if there is none
	Scheduled int64         // messages that wait for their time
	Retrying  int64         // messages refused by the publisher, and those behind them
	Dead      int64         // messages given up, neither replayed nor discarded
	Shards    []ShardStats  // by shard
}

// ShardStats is what is known of one shard.
type ShardStats struct {
	Depth   int64
	Owner   string        // relay that holds the lease; "" if none
	Epoch   int64         // counts the owners it had
	Expires time.Duration // what is left of the lease; negative if it has expired
}

// Stats counts. With a large backlog this reads all of its index; ask every few seconds, not for every request.
func (o *Outbox) Stats(ctx context.Context) (Stats, error) {
	s := Stats{Shards: make([]ShardStats, Shards)}
	x := execer{ctx, o.db.Statement.ConnPool, o.dialect}
	err := x.query("SELECT shard, count(*), {now} - min(created_at) FROM outbox GROUP BY shard", nil,
		func(rows *sql.Rows) error {
			var shard int
			var depth, age int64
			if err := rows.Scan(&shard, &depth, &age); err != nil {
				return err
			}
			s.Shards[shard].Depth = depth
			s.Depth += depth
			s.Oldest = max(s.Oldest, time.Duration(age)*time.Microsecond)
			return nil
		})
	if err != nil {
		return Stats{}, fmt.Errorf("outbox: stats: %w", err)
	}
	const leases = "SELECT shard, owner, epoch, CASE WHEN owner = '' THEN 0 ELSE expires_at - {now} END FROM outbox_lease"
	err = x.query(leases, nil,
		func(rows *sql.Rows) error {
			var shard int
			var owner string
			var epoch, left int64
			if err := rows.Scan(&shard, &owner, &epoch, &left); err != nil {
				return err
			}
			l := &s.Shards[shard]
			l.Owner, l.Epoch, l.Expires = owner, epoch, time.Duration(left)*time.Microsecond
			return nil
		})
	if err != nil {
		return Stats{}, fmt.Errorf("outbox: stats: %w", err)
	}
	for _, c := range []struct {
		into *int64
		from string
	}{
		{&s.Scheduled, "outbox_scheduled"}, {&s.Retrying, "outbox_retry"}, {&s.Dead, "outbox_dead WHERE state = 'dead'"},
	} {
		if err := x.conn.QueryRowContext(ctx, "SELECT count(*) FROM "+c.from).Scan(c.into); err != nil {
			return Stats{}, fmt.Errorf("outbox: stats: %w", err)
		}
	}
	return s, nil
}

// Published returns how many messages this relay's publisher took since Run began.
func (r *Relay) Published() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.published
}

// Publishing returns how many calls of Publish are under way, at most one for each topic.
func (r *Relay) Publishing() (calls int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.topics {
		if !t.sentAt.IsZero() {
			calls++
		}
	}
	return calls
}
