package outbox

import (
	"context"
	"database/sql"
	"math"
	"time"

	"gorm.io/gorm"
)

const (
	span      = 50_000                 // how far one read of a table with foreign rows looks
	stride    = 4_000                  // how far the scan of all topics looks at once while some are behind, at least
	unsettled = 100 * time.Millisecond // longest poll while earlier messages may still commit
	patience  = 50 * time.Millisecond  // how long a read waits for topics that publish, so that they do not fall behind
)

// A reader reads the table for a relay. Only its goroutine uses it.
//
// One scan reads the topics that keep up. A topic whose queue is full gets a scan of its own from there on and is
// left out of the first until it has caught up; so topics are independent, and memory is bounded.
type reader struct {
	relay  *Relay
	window map[int64]struct{} // messages in our hands: queued, under way, or not yet deleted
	page   []record           // of the last read, to be used again
	main   *scan
	behind map[string]*scan
	past   horizon       // PostgreSQL: who may still commit what was passed
	epochs [Shards]int64 // of the shards that may be read; 0 for others
	whole  bool          // all shards are ours
	swept  time.Time
	again  *scan // MySQL: the sweep while topics are behind; nil for none
}

// A scan is a position in the table, for one topic or for all that are not behind.
type scan struct {
	topic string
	pos   int64 // everything up to here that was visible has been read
	low   int64 // nothing can appear any more up to here
	mark  mark
}

// readLoop reads when it is woken, and polls.
func (r *Relay) readLoop(ctx context.Context) {
	rd := &reader{
		relay: r, window: map[int64]struct{}{}, behind: map[string]*scan{},
	}
	rd.restart()
	poll := minPoll
	for tries := 0; ctx.Err() == nil; {
		r.begin(choreRead)
		found, more, err := rd.read(ctx)
		r.end(choreRead, err)
		if err != nil {
			if ctx.Err() == nil {
				r.cfg.Logger.Warn("outbox cannot read", "error", err)
			}
			rd.restart()
			_ = sleep(ctx, r.backoff(tries))
			tries++
			continue
		}
		tries = 0
		if more {
			poll = minPoll
			continue
		}
		if found {
			poll = minPoll
		}
		wait := poll
		if rd.open() {
			wait = min(wait, unsettled)
		}
		if r.reading.wait(ctx, wait) {
			poll = minPoll
		} else {
			poll = min(2*poll, r.cfg.MaxPoll)
		}
	}
}

// restart begins again at the start of the table; what is in our hands is not taken twice.
func (rd *reader) restart() {
	rd.main = &scan{}
	for t := range rd.behind {
		rd.behind[t] = &scan{topic: t}
	}
	rd.past = horizon{open: map[int64]int64{}}
	rd.swept, rd.again = time.Now(), nil
}

// open reports whether messages may still appear before a position.
func (rd *reader) open() bool {
	open := rd.opened(rd.main) || len(rd.past.open) > 0
	for _, s := range rd.behind {
		open = open || rd.opened(s)
	}
	return open
}

func (rd *reader) opened(s *scan) bool {
	// SQLite has one writer at a time: sequence numbers appear in order.
	return s.low < s.pos && !rd.relay.dialect.sqlite()
}

// begin takes notice of what happened since the last read. What left our hands was deleted before the read's
// snapshot, so no read can find it again.
func (rd *reader) begin() (readable bool) {
	r := rd.relay
	r.mu.Lock()
	removed, rescan := r.removed, r.rescan
	r.removed, r.rescan = nil, false
	rd.whole = true
	for shard := range Shards {
		rd.epochs[shard] = 0
		epoch, held := r.held[shard]
		if held && !r.closing[shard] && r.barred[shard] == 0 {
			rd.epochs[shard], readable = epoch, true
		} else {
			rd.whole = false
		}
	}
	r.mu.Unlock()
	for _, seq := range removed {
		delete(rd.window, seq)
	}
	due := time.Since(rd.swept) > r.resweep
	switch {
	case rescan, due && len(rd.behind) == 0:
		rd.restart()
	case due && rd.again == nil && r.dialect.mysql(): // beside the scans, which keep their places
		rd.swept, rd.again = time.Now(), &scan{}
	}
	return readable
}

// read reads once with every scan that has room. more asks for another read at once.
func (rd *reader) read(ctx context.Context) (found, more bool, err error) {
	limit := rd.relay.pace(ctx)
	if !rd.begin() {
		return false, false, nil
	}
	err = rd.relay.outbox.reads(ctx, func(conn gorm.ConnPool) error {
		found, more, err = rd.scans(query{execer{ctx, conn, rd.relay.dialect}, rd}, limit)
		return err
	})
	return found, more, err
}

// reads runs fn with plans that keep to the primary key.
func (o *Outbox) reads(ctx context.Context, fn func(conn gorm.ConnPool) error) error {
	pool, err := o.db.DB()
	if err != nil {
		return err
	}
	if !o.dialect.postgres() {
		return fn(pool)
	}
	tx, err := pool.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, "SELECT "+byPrimaryKey); err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// pace returns how many messages the main scan may read. As long as a topic that keeps up has no room for half a buffer
// it waits, for a moment and not twice for the same: a topic that has fallen behind costs a second scan of the same
// rows, and is to do so only if others would wait for it otherwise.
func (r *Relay) pace(ctx context.Context) int {
	half := (r.cfg.Buffer + 1) / 2
	for end := time.Now().Add(patience); ; {
		late := time.Until(end) <= 0 || ctx.Err() != nil
		if room := r.leastRoom(half, late); room >= half {
			return room
		}
		r.reading.wait(ctx, time.Until(end))
	}
}

// leastRoom returns how many messages the fullest queue takes of those topics that publish, have not fallen behind and
// are not slow. When it is late, whoever has room for less than half is slow.
func (r *Relay) leastRoom(half int, late bool) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	least := r.cfg.Buffer
	for _, t := range r.topics {
		if t.slow || t.behind || t.failures > 0 || !t.running() {
			continue
		}
		room := r.cfg.Buffer - t.queued()
		if t.slow = late && room < half; !t.slow {
			least = min(least, room)
		}
	}
	return least
}

// scans lets each scan that has room advance, the main one by up to limit messages.
func (rd *reader) scans(q query, limit int) (found, more bool, err error) {
	top := int64(math.MaxInt64)
	if q.dialect.postgres() || !rd.whole || len(rd.behind) > 0 {
		if top, err = q.top(rd.main.pos); err != nil {
			return false, false, err
		}
	}
	if err := rd.note(q, top); err != nil {
		return false, false, err
	}
	n, more, err := rd.advance(q, rd.main, top, limit)
	found = n > 0
	if err != nil {
		return found, more, err
	}
	if rd.again != nil {
		n, again, err := rd.sweep(q)
		found, more = found || n > 0, more || again
		if err != nil {
			return found, more, err
		}
	}
	for name, s := range rd.behind {
		room := rd.relay.room(name)
		if room < (rd.relay.cfg.Buffer+1)/2 || top == math.MaxInt64 { // the latter: it has only now fallen behind
			continue
		}
		n, again, err := rd.advance(q, s, top, room)
		found, more = found || n > 0, more || again
		if err != nil {
			return found, more, err
		}
		if !again && rd.behind[name] == s && s.pos >= rd.main.pos && rd.relay.room(name) > 0 {
			rd.main.low = min(rd.main.low, s.low)
			rd.main.mark = mark{}
			delete(rd.behind, name)
			rd.relay.caughtUp(name)
		}
	}
	return found, more, nil
}

// sweep reads once more, step by step, what the main scan has passed, and reports whether there is more of it.
func (rd *reader) sweep(q query) (n int, more bool, err error) {
	s := rd.again
	n, _, err = rd.advance(q, s, rd.main.pos, rd.relay.cfg.Buffer)
	s.low = s.pos // the main scan looks back, and the next sweep
	if s.pos >= rd.main.pos {
		rd.again = nil
	}
	return n, rd.again != nil, err
}

// advance reads up to limit messages after the scan's position and reports whether there is more to read.
func (rd *reader) advance(q query, s *scan, top int64, limit int) (n int, more bool, err error) {
	until := max(top, s.pos)
	if !rd.whole || len(rd.behind) > 0 {
		until = min(until, s.pos+rd.span(s))
	}
	recs := rd.page[:0]
	if until > s.pos {
		if recs, err = q.rows(s, until, limit); err != nil {
			return 0, false, err
		}
	}
	before, cut := s.pos, len(recs) == limit
	missed, err := rd.ended(q)
	if err != nil {
		return 0, false, err
	}
	var late []record
	if rd.opened(s) {
		// Messages that were committed since the last read with lower numbers come first. This read's snapshot is the
		// later one: whatever has to precede a message of recs is in it, or is already in our hands.
		var complete bool
		if late, complete, err = rd.lookBack(q, s); err != nil {
			return 0, false, err
		}
		if !complete {
			return rd.dispatch(s, late, before), true, nil
		}
	}
	switch {
	case cut, until == math.MaxInt64 && len(recs) > 0:
		s.pos = recs[len(recs)-1].seq
	case until != math.MaxInt64:
		s.pos = until
	}
	n = rd.dispatch(s, late, before)
	if rd.behind[s.topic] == s && s.pos < before { // there was no room for those
		s.low = min(s.low, s.pos)
		return n, true, nil
	}
	n += rd.dispatch(s, recs, before)
	clear(recs)
	rd.page = recs
	if q.dialect.postgres() && !missed {
		s.low = s.pos // else this read may have missed what was committed since
	}
	return n, cut || missed || until < top, nil
}

// span returns how far one read of a scan looks. Topics that are behind wait for the scan of all the others to look for
// what is not theirs, so it goes on at their pace, if they are fast; if they are not, it goes on without them.
func (rd *reader) span(s *scan) int64 {
	if s == rd.main && len(rd.behind) > 0 {
		return max(stride, int64(rd.relay.cfg.Buffer))
	}
	return span
}

// caughtUp notes that a topic is read with all others again.
func (r *Relay) caughtUp(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.topic(name).behind = false
}

// room returns how many more messages a topic's queue takes.
func (r *Relay) room(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.moves) >= r.cfg.Buffer {
		return 0
	}
	return r.cfg.Buffer - r.topic(name).queued()
}

// topic returns what is known of a topic. The caller holds mu.
func (r *Relay) topic(name string) *topic {
	t := r.topics[name]
	if t == nil {
		t = newTopic(name, r.cfg.Concurrency)
		r.topics[name] = t
	}
	return t
}

// dispatch hands messages to their topics and returns how many were new.
func (rd *reader) dispatch(s *scan, recs []record, before int64) (n int) {
	r := rd.relay
	if len(recs) == 0 {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rescan {
		return 0 // everything is read again from the beginning; what was read now must not come first
	}
	touched := map[*topic]struct{}{}
	for i := range recs {
		rec := recs[i]
		rec.epoch = rd.epochs[rec.shard]
		if _, known := rd.window[rec.seq]; known || rec.epoch == 0 || !r.mine(&rec) {
			continue
		}
		if s.topic == "" && rd.behind[rec.topic] != nil {
			continue
		}
		t := r.topic(rec.topic)
		if t.queued() >= r.cfg.Buffer || len(r.moves) >= r.cfg.Buffer {
			if s.topic == "" {
				rd.behind[rec.topic] = &scan{topic: rec.topic, pos: min(before, rec.seq-1), low: min(s.low, rec.seq-1)}
				t.behind = true
				continue
			}
			s.pos = min(s.pos, rec.seq-1)
			break
		}
		rd.window[rec.seq] = struct{}{}
		n++
		if len(r.blocked) > 0 {
			if b := r.blocked[rec.lane()]; b != nil && b.holds {
				r.enqueueMove(rec)
				continue
			}
		}
		t.strand(rec.shard).push(rec)
		touched[t] = struct{}{}
	}
	for t := range touched {
		r.start(t)
	}
	return n
}
