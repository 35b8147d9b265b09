package outbox

import (
	"context"
	"slices"
	"strings"

	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// cleanText makes any text storable: valid UTF-8 without NUL, which PostgreSQL refuses.
func cleanText(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "�"), "\x00", "�")
}

// dueTrials loads the heads that are due, each with what waits behind it.
func (r *Relay) dueTrials(ctx context.Context) ([]*trial, error) {
	epochs := r.epochs()
	if len(epochs) == 0 {
		return nil, nil
	}
	shards := make([]int64, 0, len(epochs))
	for shard := range epochs {
		shards = append(shards, int64(shard))
	}
	where, args := r.dialect.among("r.shard", shards)
	for _, name := range r.occupied() {
		busy, more := r.dialect.is("r.topic", name)
		where, args = where+" AND NOT ("+busy+")", append(args, more...)
	}
	heads, err := r.retryRows(ctx, where+" AND r.due_at <= {now} AND ("+r.dialect.same("r.aggregateid", "''")+
		" OR NOT EXISTS (SELECT 1 FROM outbox_retry p WHERE "+r.dialect.same("p.topic", "r.topic")+
		" AND "+r.dialect.same("p.aggregateid", "r.aggregateid")+` AND p.seq < r.seq))
		ORDER BY r.due_at, r.seq LIMIT ?`, append(args, maxTrials)...)
	if err != nil {
		return nil, err
	}
	var trials []*trial
	loaded := 0
	for _, head := range heads {
		if loaded >= r.cfg.Buffer {
			break // the rest stays due
		}
		loaded++
		tr := &trial{rows: []record{head}, epoch: epochs[head.shard]}
		trials = append(trials, tr)
		if head.key == "" || r.policy(head.topic) != BlockKey {
			continue
		}
		where, args := r.dialect.inLane("r.", head.lane())
		behind, err := r.retryRows(ctx, where+" AND r.seq > ? ORDER BY r.seq LIMIT ?",
			append(args, head.seq, min(maxFollowers, r.cfg.perCall()-1))...)
		if err != nil {
			return nil, err
		}
		loaded += len(behind)
		tr.rows = append(tr.rows, behind...)
	}
	return trials, nil
}

// inLane returns a condition that a row is of a lane, and its arguments. The prefix names the table.
func (d dialect) inLane(prefix string, l lane) (string, []any) {
	where, args := d.is(prefix+"topic", l.topic)
	column := "aggregateid"
	if l.lone {
		where += " AND " + d.same(prefix+column, "''")
		column = "id"
	}
	is, more := d.is(prefix+column, l.key)
	return where + " AND " + is, append(args, more...)
}

// occupied lists the topics that take no more trials now: they fail, or have not done with the last ones. Their
// heads, which stay due, would hide those of other topics.
func (r *Relay) occupied() (names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	busy := map[string]bool{}
	for l, b := range r.blocked {
		if b.busy {
			busy[l.topic] = true
		}
	}
	for name, t := range r.topics {
		if busy[name] || t.failures > 0 {
			names = append(names, name)
		}
	}
	return names
}

func (r *Relay) retryRows(ctx context.Context, where string, args ...any) (recs []record, err error) {
	rows, err := r.pool.QueryContext(ctx, r.dialect.sql(
		"SELECT seq, "+columns+", attempts FROM outbox_retry r WHERE "+where), args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var rec record
		if err := rec.scan(rows, &rec.attempts); err != nil {
			return nil, err
		}
		recs = append(recs, rec)
	}
	return recs, rows.Err()
}

// settleTrials writes down what became of trials: published rows go, the one that failed waits or dies.
func (r *Relay) settleTrials(ctx context.Context) error {
	r.mu.Lock()
	tried := r.tried
	r.tried = nil
	r.mu.Unlock()
	if len(tried) == 0 {
		return nil
	}
	empty := map[lane]bool{}
	err := r.unit.Do(ctx, func(ctx context.Context) error {
		clear(empty)
		conn := uow.DB(ctx).Statement.ConnPool
		held, err := r.heldIn(ctx, conn, r.dialect.update)
		if err != nil {
			return err
		}
		for _, tr := range tried {
			if held[tr.rows[0].shard] != tr.epoch { // what is in the table now is another relay's work
				continue
			}
			left, err := r.settle(ctx, conn, tr)
			if err != nil {
				return err
			}
			empty[tr.rows[0].lane()] = left == 0
		}
		return nil
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.tried = append(tried, r.tried...)
		return err
	}
	for _, tr := range tried {
		r.flying[tr.rows[0].shard]--
		l := tr.rows[0].lane()
		tr.lane.busy = false
		r.deleted(r.topic(l.topic), tr.done)
		moving := slices.ContainsFunc(r.moves, func(m move) bool { return m.rec.lane() == l })
		if empty[l] && !moving {
			r.unblock(l)
		} else {
			r.retrying.set()
		}
	}
	r.handOver()
	return nil
}

// settle writes down one trial and returns how many rows its lane has left.
func (r *Relay) settle(ctx context.Context, conn gorm.ConnPool, tr *trial) (left int64, err error) {
	published := make([]int64, 0, tr.done)
	for i := range tr.rows[:tr.done] {
		published = append(published, tr.rows[i].seq)
	}
	if len(published) > 0 {
		if _, err := r.remove(ctx, conn, "outbox_retry", published, ""); err != nil {
			return 0, err
		}
	}
	if tr.err != nil && tr.done < len(tr.rows) {
		if err := r.settleFailed(ctx, conn, &tr.rows[tr.done], tr); err != nil {
			return 0, err
		}
	}
	where, args := r.dialect.inLane("", tr.rows[0].lane())
	err = conn.QueryRowContext(ctx, r.dialect.sql("SELECT count(*) FROM outbox_retry WHERE "+where), args...).Scan(&left)
	return left, err
}

// settleFailed charges the attempt of a message that was not published: it waits, or dies.
func (r *Relay) settleFailed(ctx context.Context, conn gorm.ConnPool, rec *record, tr *trial) error {
	attempts := rec.attempts + tr.cost
	if attempts < r.cfg.Attempts {
		_, err := conn.ExecContext(ctx,
			r.dialect.sql("UPDATE outbox_retry SET attempts = ?, due_at = {now} + ?, error = ? WHERE seq = ?"),
			attempts, r.backoff(attempts).Microseconds(), errorText(tr.err), rec.seq)
		return err
	}
	if err := r.bury(ctx, conn, rec, attempts, tr.err); err != nil {
		return err
	}
	_, err := conn.ExecContext(ctx, r.dialect.sql("DELETE FROM outbox_retry WHERE seq = ?"), rec.seq)
	return err
}

// bury copies a message of the retry table to the dead ones.
func (r *Relay) bury(ctx context.Context, conn gorm.ConnPool, rec *record, attempts int, cause error) error {
	const cols = "seq, " + columns + ", created_at"
	r.cfg.Logger.Error("outbox message given up", "topic", rec.topic, "id", rec.id, "attempts", attempts, "error", cause)
	n, err := execer{ctx, conn, r.dialect}.exec("INSERT INTO outbox_dead ("+cols+
		", attempts, error, died_at, state, actor, reason, acted_at) SELECT "+cols+
		", 0, '', {now}, 'dead', '', '', 0 FROM outbox_retry WHERE seq = ?"+r.dialect.update, rec.seq)
	if err != nil || n == 0 { // it was erased
		return err
	}
	_, err = conn.ExecContext(ctx, r.dialect.sql("UPDATE outbox_dead SET attempts = ?, error = ? WHERE seq = ?"),
		attempts, errorText(cause), rec.seq)
	if err != nil {
		return err
	}
	return r.outbox.countDead(ctx, rec.topic)
}
