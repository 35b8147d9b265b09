package outbox

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

const (
	maxTrials    = 100 // heads looked at in a round
	maxFollowers = 256 // messages tried behind a head
	maxError     = 2_000
)

// A move takes a message from outbox to outbox_retry: one that was refused, or one behind it.
type move struct {
	rec  record
	err  error         // nil for one behind
	due  time.Duration // from now
	cost int           // attempts that err costs: 0 or 1
}

// A trial publishes messages of the retry table: a head, and if that works what waits behind it.
type trial struct {
	rows  []record
	epoch int64     // of the lease under which they were loaded
	lane  *blockade // of the rows
	done  int       // how many were published, from the front
	err   error     // of the next one
	cost  int       // attempts that err costs: 0 or 1
}

// A blockade is a lane that has rows in the retry table.
type blockade struct {
	shard int
	holds bool   // later messages of the lane wait behind it
	bars  bool   // the whole shard waits
	busy  bool   // a trial of it is under way
	seen  uint64 // what the publisher had taken of the topic at the last trial
}

// refuse gives a message that was taken to the retry table, and charges an attempt if it is to blame. The caller
// holds mu.
func (r *Relay) refuse(t *topic, rec record, err error, blame bool) {
	r.cfg.Logger.Warn("outbox message refused", "topic", t.name, "id", rec.id, "error", err)
	m := move{rec: rec, err: err, due: r.backoff(0)}
	if blame {
		m.cost = 1
	}
	r.moves = append(r.moves, m)
	b := r.blockade(rec.lane(), rec.shard)
	b.seen = t.accepted
	r.retrying.set()
}

// blockade returns the lane's blockade, and sets it up by the topic's policy if there is none.
func (r *Relay) blockade(l lane, shard int) *blockade {
	if b := r.blocked[l]; b != nil {
		return b
	}
	policy := r.policy(l.topic)
	b := &blockade{shard: shard, holds: policy == BlockKey, bars: policy == BlockShard}
	r.blocked[l] = b
	if b.bars {
		r.barred[shard]++
		r.purge()
	}
	return b
}

// policy returns a topic's policy. What is none, be it a panic, is the one that keeps the order.
func (r *Relay) policy(topic string) (p Poison) {
	err := guarded("Poison", func() error {
		if p = r.cfg.Poison(topic); p < BlockKey || p > BlockShard {
			return fmt.Errorf("outbox: Poison returned %d", p)
		}
		return nil
	})
	if err != nil {
		r.cfg.Logger.Error("outbox topic has no policy, so a refused message blocks its key", "topic", topic, "error", err)
		return BlockKey
	}
	return p
}

// unblock frees a lane, and its shard if it was the last to bar it.
func (r *Relay) unblock(l lane) {
	b := r.blocked[l]
	delete(r.blocked, l)
	if b == nil || !b.bars {
		return
	}
	r.barred[b.shard]--
	if r.barred[b.shard] == 0 {
		r.rescan = true
		r.reading.set()
	}
}

// follow takes the messages of blocked lanes out of the queues, to which they came during a sweep, and sends them
// after those in the retry table.
func (r *Relay) follow(t *topic, blocked map[lane]bool) {
	if len(blocked) == 0 {
		return
	}
	for _, s := range t.strands {
		s.queue = slices.DeleteFunc(s.queue, func(rec record) bool {
			if !blocked[rec.lane()] {
				return false
			}
			r.enqueueMove(rec)
			return true
		})
	}
}

// enqueueMove sends a message that was not taken behind those in the retry table.
func (r *Relay) enqueueMove(rec record) {
	r.flying[rec.shard]++
	r.moves = append(r.moves, move{rec: rec})
	r.retrying.set()
}

// retryLoop alone writes the retry table: it appends, tries and removes, so the order of a lane is its own.
func (r *Relay) retryLoop(ctx context.Context) {
	for tries := 0; ; {
		ended := ctx.Err() != nil
		r.begin(choreRetry)
		err := r.retryRound(r.writing)
		r.end(choreRetry, err)
		if ended {
			return
		}
		if err != nil {
			r.cfg.Logger.Warn("outbox cannot tend its retries", "error", err)
			_ = sleep(ctx, r.backoff(tries))
			tries++
			continue
		}
		tries = 0
		wait := time.Minute
		if r.blocking() {
			wait = min(max(r.cfg.Backoff, minPoll), time.Second)
		}
		r.retrying.wait(ctx, wait)
	}
}

func (r *Relay) blocking() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.blocked) > 0
}

func (r *Relay) retryRound(ctx context.Context) error {
	if err := r.storeMoves(ctx); err != nil {
		return fmt.Errorf("move: %w", err)
	}
	if err := r.settleTrials(ctx); err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	if !r.blocking() {
		return nil
	}
	trials, err := r.dueTrials(ctx)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	if err := r.freeErased(ctx); err != nil {
		return fmt.Errorf("look for erased messages: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, tr := range trials {
		r.offer(tr)
	}
	return nil
}

// freeErased frees, now and then, lanes whose rows in the retry table were erased, so that no trial frees them. Only
// the caller's goroutine puts rows there.
func (r *Relay) freeErased(ctx context.Context) error {
	idle := map[lane]*blockade{}
	var shards []int64
	r.mu.Lock()
	if time.Since(r.freeing) > r.cfg.Lease {
		for l, b := range r.blocked {
			if !b.busy {
				idle[l] = b
				shards = append(shards, int64(b.shard))
			}
		}
	}
	r.mu.Unlock()
	if len(idle) == 0 {
		return nil
	}
	there, err := execer{ctx, r.pool, r.dialect}.retrying(shards)
	if err != nil {
		return err
	}
	for _, b := range there {
		delete(idle, b.lane)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.freeing = time.Now()
	for _, m := range r.moves {
		delete(idle, m.rec.lane())
	}
	for l, b := range idle {
		if r.blocked[l] == b && !b.busy {
			r.cfg.Logger.Info("outbox frees a key without messages", "topic", l.topic, "shard", b.shard)
			r.unblock(l)
		}
	}
	return nil
}

// offer hands a trial to its strand, so that nothing else of its lane is under way. The caller holds mu.
func (r *Relay) offer(tr *trial) {
	head := &tr.rows[0]
	t := r.topic(head.topic)
	if !r.ours(tr) || t.failures > 0 {
		return
	}
	tr.lane = r.blockade(head.lane(), head.shard)
	if tr.lane.busy {
		return
	}
	tr.lane.busy = true
	r.flying[head.shard]++
	s := t.strand(head.shard)
	s.trials = append(s.trials, tr)
	r.start(t)
}

// ours reports whether a trial is ours to publish under the lease under which it was loaded. The caller holds mu.
func (r *Relay) ours(tr *trial) bool {
	shard := tr.rows[0].shard
	epoch, held := r.held[shard]
	return held && epoch == tr.epoch && !r.closing[shard]
}

// goesOn reports whether a trial may still publish, just before it does: the relay may be paused since, or the
// publisher have taken all the time that the lease had left, and another relay have published the rest, and more.
func (r *Relay) goesOn(tr *trial) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.paused && r.fresh() && r.ours(tr)
}

// try publishes the head of a trial alone and then the rest at once.
func (r *Relay) try(s *strand, tr *trial) {
	t := s.topic
	var err error
	if r.goesOn(tr) {
		if _, err = r.send(t.name, tr.rows[:1]); err == nil {
			tr.done = 1
		}
	}
	if rest := tr.rows[tr.done:]; tr.done == 1 && len(rest) > 0 && r.goesOn(tr) {
		var failed map[int]bool
		failed, err = r.send(t.name, rest)
		for i := range rest {
			if err != nil && (failed == nil || failed[i]) {
				break
			}
			tr.done++
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.returned(s)
	tr.err = err
	s.published(tr.done)
	r.took(tr.done)
	if err != nil && (refused(err) || t.accepted > tr.lane.seen) {
		tr.cost = 1 // the publisher takes other messages of the topic, so it is this one's fault
	}
	tr.lane.seen = t.accepted
	r.tried = append(r.tried, tr)
	r.retrying.set()
}

// storeMoves writes the pending moves in a transaction. They stay pending meanwhile, so that [Relay.lose] sees them:
// what was read under a lease that was lost since is not moved, but read again before anything behind it.
func (r *Relay) storeMoves(ctx context.Context) error {
	r.mu.Lock()
	moves := slices.Clone(r.moves)
	r.mu.Unlock()
	if len(moves) == 0 {
		return nil
	}
	var held map[int]int64
	err := r.unit.Do(ctx, func(ctx context.Context) (err error) {
		conn := uow.DB(ctx).Statement.ConnPool
		if held, err = r.heldIn(ctx, conn, r.dialect.update); err != nil {
			return err
		}
		return r.moveRows(ctx, conn, moves, held)
	})
	if err != nil {
		return err
	}
	type read struct{ seq, epoch int64 }
	stored := map[read]bool{}
	for i := range moves {
		rec := &moves[i].rec
		stored[read{rec.seq, rec.epoch}] = held[rec.shard] == rec.epoch
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moves = slices.DeleteFunc(r.moves, func(m move) bool {
		if !stored[read{m.rec.seq, m.rec.epoch}] {
			return false
		}
		r.flying[m.rec.shard]--
		r.removed = append(r.removed, m.rec.seq)
		return true
	})
	r.reading.set() // there is room
	r.handOver()
	return nil
}

// moveRows moves what was read under the leases that still hold.
func (r *Relay) moveRows(ctx context.Context, conn gorm.ConnPool, moves []move, held map[int]int64) error {
	var seqs []int64
	for i := range moves {
		if held[moves[i].rec.shard] == moves[i].rec.epoch {
			seqs = append(seqs, moves[i].rec.seq)
		}
	}
	if len(seqs) == 0 {
		return nil
	}
	rows, args := r.dialect.rows("outbox", seqs)
	const cols = "seq, " + columns + ", created_at"
	_, err := conn.ExecContext(ctx, r.dialect.sql("INSERT INTO outbox_retry ("+cols+", attempts, due_at, error) SELECT "+
		cols+", 0, 0, '' FROM "+rows+r.dialect.update), args...) // locked, so that none is erased before it is deleted
	if err != nil {
		return err
	}
	query, args := r.dialect.deletion("outbox", seqs)
	if _, err = conn.ExecContext(ctx, r.dialect.sql(query), args...); err != nil {
		return err
	}
	for i := range moves {
		m := &moves[i]
		if m.err == nil || held[m.rec.shard] != m.rec.epoch {
			continue
		}
		_, err := conn.ExecContext(ctx,
			r.dialect.sql("UPDATE outbox_retry SET attempts = ?, due_at = {now} + ?, error = ? WHERE seq = ?"),
			m.cost, m.due.Microseconds(), errorText(m.err), m.rec.seq)
		if err != nil {
			return err
		}
	}
	return nil
}

func errorText(err error) string {
	text := err.Error()
	if len(text) > maxError {
		text = text[:maxError]
	}
	return cleanText(text)
}
