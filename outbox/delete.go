package outbox

import (
	"cmp"
	"context"
	"slices"

	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// maxDelete bounds the rows of one delete.
const maxDelete = 4_000

// An ack is a message that was published and is to be deleted.
type ack struct {
	seq   int64
	shard int
	topic *topic
}

// deleteLoop deletes what was published, until ctx ends and nothing is left, or cannot be deleted any more.
func (r *Relay) deleteLoop(ctx context.Context) {
	for tries := 0; ; {
		batch := r.takeAcked()
		if len(batch) == 0 {
			if ctx.Err() != nil {
				return
			}
			select {
			case <-r.deleting:
			case <-ctx.Done():
			}
			continue
		}
		r.begin(choreDelete)
		r.measureDelay(ctx, batch)
		held, err := r.deleteRows(r.writing, batch)
		r.end(choreDelete, err)
		left := r.settleAcked(batch, held, err)
		if err == nil {
			tries = 0
			if left {
				_ = sleep(ctx, minPoll) // the lease loop finds out in a moment
			}
			continue
		}
		r.cfg.Logger.Warn("outbox cannot delete what it published", "rows", len(batch), "error", err)
		if ctx.Err() != nil && tries >= 3 {
			return // they are published again, by whoever runs next
		}
		_ = sleep(context.WithoutCancel(ctx), min(r.backoff(tries), minPoll<<6))
		tries++
	}
}

func (r *Relay) takeAcked() []ack {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(len(r.acked), maxDelete)
	batch := r.acked[:n:n]
	r.acked = r.acked[n:]
	return batch
}

// settleAcked notes what became of published messages: deleted, not ours any longer, or to be tried again. It
// reports whether some are left because memory and database disagree about a lease.
func (r *Relay) settleAcked(batch []ack, held map[int]int64, err error) (left bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.acked = append(batch, r.acked...)
		return false
	}
	for i := range batch {
		a := batch[i]
		if _, ours := r.held[a.shard]; ours && held[a.shard] == 0 && !r.ending() {
			r.acked = append(r.acked, a)
			left = true
			continue
		}
		r.flying[a.shard]--
		r.removed = append(r.removed, a.seq)
		r.deleted(a.topic, 1)
	}
	r.handOver()
	return left
}

// ending reports whether the relay is to stop.
func (r *Relay) ending() bool {
	select {
	case <-r.stopping:
		return true
	default:
		return false
	}
}

// deleteRows deletes by exact key the rows of shards that are ours by the database's word, and returns those shards.
// Rows of a shard that was lost stay: its new owner publishes them again, and deletes them.
func (r *Relay) deleteRows(ctx context.Context, batch []ack) (held map[int]int64, err error) {
	slices.SortFunc(batch, func(a, b ack) int { return cmp.Compare(a.seq, b.seq) })
	if r.dialect.postgres() {
		err = r.relaxed(ctx, func(ctx context.Context, conn gorm.ConnPool) error {
			if held, err = r.deleteFenced(ctx, conn, batch); held != nil || err != nil {
				return err
			}
			held, err = r.deleteHeld(ctx, conn, batch)
			return err
		})
		return held, err
	}
	err = r.unit.Do(ctx, func(ctx context.Context) error {
		held, err = r.deleteHeld(ctx, uow.DB(ctx).Statement.ConnPool, batch)
		return err
	})
	return held, err
}

// deleteFenced deletes by one statement if the database agrees about all leases of the batch, as it does unless one
// was lost. It returns nil for held if it did not delete them all.
func (r *Relay) deleteFenced(ctx context.Context, conn gorm.ConnPool, batch []ack) (held map[int]int64, err error) {
	held = make(map[int]int64, Shards)
	seqs := make([]int64, len(batch))
	r.mu.Lock()
	for i, a := range batch {
		seqs[i] = a.seq
		if held[a.shard] = r.held[a.shard]; held[a.shard] == 0 {
			r.mu.Unlock()
			return nil, nil
		}
	}
	r.mu.Unlock()
	shards, epochs := make([]int64, 0, len(held)), make([]int64, 0, len(held))
	for shard, epoch := range held {
		shards, epochs = append(shards, int64(shard)), append(epochs, epoch)
	}
	const agreed = ` AND (SELECT count(*) FROM outbox_lease l JOIN unnest(?::bigint[], ?::bigint[]) AS h(shard, epoch)
		ON l.shard = h.shard AND l.epoch = h.epoch WHERE l.owner = ?) = ?`
	n, err := r.remove(ctx, conn, "outbox", seqs, agreed, shards, epochs, r.owner, len(shards))
	if err != nil || n < int64(len(seqs)) {
		return nil, err
	}
	return held, nil
}

// deleteHeld deletes what the database says is ours.
func (r *Relay) deleteHeld(ctx context.Context, conn gorm.ConnPool, batch []ack) (held map[int]int64, err error) {
	if held, err = r.heldIn(ctx, conn, ""); err != nil {
		return nil, err
	}
	seqs := make([]int64, 0, len(batch))
	for _, a := range batch {
		if held[a.shard] != 0 {
			seqs = append(seqs, a.seq)
		}
	}
	if len(seqs) > 0 {
		_, err = r.remove(ctx, conn, "outbox", seqs, "")
	}
	return held, err
}

// relaxed runs fn in a PostgreSQL transaction that does not wait for the disk, with plans that keep to the primary
// key. If the server crashes, the rows are back and are published again.
func (r *Relay) relaxed(ctx context.Context, fn func(context.Context, gorm.ConnPool) error) error {
	tx, err := r.pool.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, `SELECT set_config('synchronous_commit', 'off', true), `+byPrimaryKey); err != nil {
		return err
	}
	if err := fn(ctx, tx); err != nil {
		return err
	}
	return tx.Commit()
}

// byPrimaryKey keeps PostgreSQL's planner, which may have seen the table empty, from reading all of it, and from
// compiling what it then takes to be expensive: that costs 200 ms.
const byPrimaryKey = `set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true),
	set_config('enable_bitmapscan', 'off', true), set_config('jit', 'off', true)`

// heldIn returns the epochs, which are at least 1, of the leases that are ours both in memory and in the database.
func (r *Relay) heldIn(ctx context.Context, conn gorm.ConnPool, lock string) (held map[int]int64, err error) {
	from := "outbox_lease WHERE owner = ?"
	switch {
	case lock == "":
	case r.dialect.mysql(): // it waits for each row that it looks at, and then sees whether it is ours
		where, _ := r.dialect.among("shard", r.leased())
		from = "outbox_lease FORCE INDEX (PRIMARY) WHERE owner = ? AND " + where
	default:
		if err := r.hurry(ctx, conn); err != nil {
			return nil, err
		}
	}
	rows, err := conn.QueryContext(ctx, r.dialect.sql("SELECT shard, epoch FROM "+from+" ORDER BY shard"+lock), r.owner)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	stored := map[int]int64{}
	for rows.Next() {
		var shard int
		var epoch int64
		if err := rows.Scan(&shard, &epoch); err != nil {
			return nil, err
		}
		stored[shard] = epoch
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	held = make(map[int]int64, len(stored))
	for shard, epoch := range stored {
		if r.held[shard] == epoch {
			held[shard] = epoch
		}
	}
	return held, nil
}

// hurry has PostgreSQL end the transaction if this process is frozen, so that others get what it has locked.
func (r *Relay) hurry(ctx context.Context, conn gorm.ConnPool) error {
	if !r.dialect.postgres() {
		return nil
	}
	_, err := conn.ExecContext(ctx, "SELECT set_config('idle_in_transaction_session_timeout', $1, true)",
		itoa(r.cfg.Lease.Milliseconds()))
	return err
}

// leased lists the shards that are ours.
func (r *Relay) leased() (shards []int64) {
	for shard := range r.epochs() {
		shards = append(shards, int64(shard))
	}
	slices.Sort(shards)
	return shards
}
