package outbox

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// A topic is what a relay has in memory for one topic. Its messages are in strands, each of which has the keys of some
// shards and is published by one call at a time: this keeps the order of keys, and no topic waits for another. After a
// failure one strand's worker alone goes on, with the messages of all.
type topic struct {
	name    string
	strands []*strand
	behind  bool // the reader reads it by a scan of its own, and waits for room
	slow    bool // the reader has waited in vain for room for half a buffer, and does not wait again before there is some

	failures int       // in a row
	since    time.Time // of the first of them
	err      error     // of the last of them
	resume   time.Time // when it goes on after the last of them
	sweeper  *strand   // whose worker goes on; nil: whoever can be it first
	offset   int       // where the next sweep begins
	cycled   bool      // sweeps have come round to the front without success
	accepted uint64    // messages that the publisher took
	undone   int       // messages that a crash would publish again: under way, or taken and not deleted yet
}

// A strand has a worker as long as there is something to do.
type strand struct {
	topic    *topic
	queue    []record // to be published, in order
	memory   []record // where the queue grew to its greatest length
	batch    []record // being published
	trials   []*trial // from the retry table
	tried    bool     // its last job was one of them
	running  bool
	reserved int       // messages counted in undone that the call under way may publish
	sentAt   time.Time // when it began; zero when none is
}

func newTopic(name string, strands int) *topic {
	t := &topic{name: name, strands: make([]*strand, strands)}
	for i := range t.strands {
		t.strands[i] = &strand{topic: t}
	}
	return t
}

// strand returns where the messages of a shard are. Relays share the shards by turns, so neighbors are put together:
// then each relay has shards in every strand, unless relays and strands are many.
func (t *topic) strand(shard int) *strand { return t.strands[shard*len(t.strands)/Shards] }

// queued returns how many messages wait.
func (t *topic) queued() (n int) {
	for _, s := range t.strands {
		n += len(s.queue)
	}
	return n
}

// running reports whether a worker is at work.
func (t *topic) running() bool {
	return slices.ContainsFunc(t.strands, func(s *strand) bool { return s.running })
}

// sending returns when the oldest call under way began, and how many there are.
func (t *topic) sending() (since time.Time, calls int) {
	for _, s := range t.strands {
		if s.sentAt.IsZero() {
			continue
		}
		if calls++; since.IsZero() || s.sentAt.Before(since) {
			since = s.sentAt
		}
	}
	return since, calls
}

// start starts the workers that have work. The caller holds mu.
func (r *Relay) start(t *topic) {
	if r.paused || r.ending() {
		return
	}
	for _, s := range t.strands {
		if !s.running && len(s.queue)+len(s.trials) > 0 {
			s.running = true
			r.workers.Go(func() { r.work(s) })
		}
	}
}

// A job is what a worker does next: publish messages, by one call or after a failure one by one, or a trial.
type job struct {
	batch []record
	sweep bool
	trial *trial
}

// work publishes until there is nothing to do.
func (r *Relay) work(s *strand) {
	for {
		j, ok := r.take(s)
		switch {
		case !ok:
			return
		case j.trial != nil:
			r.try(s, j.trial)
		case j.sweep:
			r.sweep(s, j.batch)
		default:
			r.publishBatch(s, j.batch)
		}
	}
}

// rest pauses a worker, unless the relay stops.
func (r *Relay) rest(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.stopping:
	}
}

// take waits until the strand may publish and returns what. Without work, or when the relay stops, the worker ends.
func (r *Relay) take(s *strand) (j job, ok bool) {
	t := s.topic
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if _, calls := t.sending(); t.failures > 0 && t.queued()+calls == 0 {
			r.recover(t) // what failed went to another relay
		}
		if r.idle(s) {
			s.running = false
			if t.sweeper == s {
				t.sweeper = nil
			}
			if len(s.queue)+len(s.trials) == 0 {
				*s = strand{topic: t} // lets go of what a full queue took, for good if the topic was one of many
			}
			return job{}, false
		}
		var pause time.Duration
		switch {
		case t.failures > 0 && time.Now().Before(t.resume):
			t.sweeper = s
			pause = time.Until(t.resume)
		case !r.fresh():
			pause = minPoll // for the next renewal of the leases
		case r.full(t):
			r.freed.Wait()
			continue
		default:
			return r.next(s), true
		}
		r.mu.Unlock()
		r.rest(pause)
		r.mu.Lock()
	}
}

// next returns what a strand that has work publishes. The caller holds mu.
func (r *Relay) next(s *strand) (j job) {
	t, before, half := s.topic, s.topic.queued(), r.cfg.Buffer/2
	s.sentAt = time.Now()
	switch {
	case t.failures > 0: // all of it: a message that passes may be far behind one that does not
		t.sweeper = s
		for _, other := range t.strands {
			j.batch = append(j.batch, other.queue...)
			other.drop(len(other.queue))
		}
		j.sweep, s.reserved = true, r.cfg.perCall()
	case len(s.trials) > 0 && (!s.tried || len(s.queue) == 0): // by turns: those that fail may each take long
		s.tried = true
		j.trial, s.trials = s.trials[0], s.trials[1:]
		s.reserved = len(j.trial.rows)
	default:
		s.tried = false
		s.pop(min(len(s.queue), r.cfg.perCall()))
		j.batch, s.reserved = s.batch, len(s.batch)
	}
	t.undone += s.reserved
	for i := range j.batch {
		r.flying[j.batch[i].shard]++
	}
	if t.queued() <= half && (t.behind || before > half) {
		t.slow = false
		r.reading.set()
	}
	return j
}

// returned notes that the strand's call has ended. The caller holds mu.
func (r *Relay) returned(s *strand) {
	s.sentAt = time.Time{}
	r.deleted(s.topic, s.reserved) // what it did not publish is not to be deleted either
	s.reserved = 0
}

// push appends to the queue. What was popped since makes room for it, once that is half of the memory.
func (s *strand) push(rec record) {
	if len(s.queue) == cap(s.queue) && len(s.queue) <= cap(s.memory)/2 {
		s.queue = append(s.memory[:0], s.queue...)
		clear(s.queue[len(s.queue):cap(s.queue)])
	}
	s.queue = append(s.queue, rec)
	if cap(s.queue) > cap(s.memory) {
		s.memory = s.queue[:0]
	}
}

// pop moves messages from the front of the queue to the batch.
func (s *strand) pop(n int) {
	s.batch = append(s.batch[:0], s.queue[:n]...)
	s.drop(n)
}

// drop lets go of messages at the front of the queue.
func (s *strand) drop(n int) {
	clear(s.queue[:n])
	s.queue = s.queue[n:]
}

// full reports whether a crash would publish so much again that nothing more may be published before some of it was
// deleted.
func (r *Relay) full(t *topic) bool { return r.cfg.Batch-t.undone < r.cfg.perCall() }

// deleted notes that messages that were published are not ours to delete any longer, as a rule because they were. The
// caller holds mu.
func (r *Relay) deleted(t *topic, n int) {
	t.undone -= n
	r.freed.Broadcast()
}

// forget lets go of topics that nothing is known of, since there may be one for each day, tenant or reply.
func (r *Relay) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	blocked := map[string]bool{}
	for l := range r.blocked {
		blocked[l.topic] = true // whoever is blocked counts what the publisher takes of the topic
	}
	for name, t := range r.topics {
		if t.idle() && !blocked[name] {
			delete(r.topics, name)
		}
	}
}

// idle reports whether the topic has nothing to publish, to delete, to read or to wait for.
func (t *topic) idle() bool {
	waits := slices.ContainsFunc(t.strands, func(s *strand) bool { return s.running || len(s.queue)+len(s.trials) > 0 })
	return !waits && t.undone == 0 && t.failures == 0 && !t.behind
}

// recover forgets failures, and lets the workers of all strands go on. The caller holds mu.
func (r *Relay) recover(t *topic) {
	t.failures, t.err, t.resume, t.sweeper, t.offset, t.cycled = 0, nil, time.Time{}, nil, 0, false
	r.start(t)
}

// idle reports whether the strand's worker has nothing to do. After a failure all but one have, and that one waits for
// the last call of the others, whose worker then is the one.
func (r *Relay) idle(s *strand) bool {
	if r.paused || r.ending() {
		return true
	}
	if t := s.topic; t.failures > 0 {
		_, calls := t.sending()
		return t.sweeper != s && (t.sweeper != nil || calls > 0)
	}
	return len(s.queue)+len(s.trials) == 0
}

// mine reports whether a message may be published under the lease under which it was read.
func (r *Relay) mine(rec *record) bool {
	epoch, ok := r.held[rec.shard]
	return ok && epoch == rec.epoch && !r.closing[rec.shard] && r.barred[rec.shard] == 0
}

// purge drops from the queues what is not ours to publish any longer. The caller holds mu.
func (r *Relay) purge() {
	for _, t := range r.topics {
		for _, s := range t.strands {
			s.queue = r.filter(s.queue)
			s.trials = slices.DeleteFunc(s.trials, func(tr *trial) bool {
				if r.ours(tr) {
					return false
				}
				r.flying[tr.rows[0].shard]--
				tr.lane.busy = false
				return true
			})
		}
		if t.queued() == 0 && !t.running() {
			r.recover(t)
		}
	}
}

// filter returns the messages that are ours to publish and lets go of the others.
func (r *Relay) filter(recs []record) []record {
	n := 0
	for i := range recs {
		if !r.mine(&recs[i]) {
			r.removed = append(r.removed, recs[i].seq)
			continue
		}
		recs[n] = recs[i]
		n++
	}
	clear(recs[n:])
	return recs[:n]
}

// publishBatch publishes batch by one call.
func (r *Relay) publishBatch(s *strand, batch []record) {
	failed, err := r.send(s.topic.name, batch)
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.returned(s)
	if err == nil {
		r.accept(s, batch...)
		return
	}
	var back []record
	for i := range batch {
		if failed == nil || failed[i] {
			back = append(back, batch[i])
		} else {
			r.accept(s, batch[i])
		}
	}
	r.giveBack(s.topic, back)
	if s.topic.failures == 0 { // else another call has failed that was under way at the same time
		r.fail(s.topic, err)
	}
}

// accept notes that messages were published; the deleter does the rest.
func (r *Relay) accept(s *strand, recs ...record) {
	if len(recs) == 0 {
		return
	}
	s.published(len(recs))
	r.took(len(recs))
	for i := range recs {
		r.acked = append(r.acked, ack{recs[i].seq, recs[i].shard, s.topic})
	}
	r.deleting.set()
}

// published notes that so many of the messages under way are to be deleted.
func (s *strand) published(n int) {
	s.topic.accepted += uint64(n) //nolint:gosec // a count
	s.reserved -= n
}

// giveBack puts messages that were taken back in front of their queues.
func (r *Relay) giveBack(t *topic, back []record) {
	stale := map[int]bool{}
	for i := range back {
		rec := &back[i]
		r.flying[rec.shard]--
		if epoch, ok := r.held[rec.shard]; ok && epoch != rec.epoch {
			stale[rec.shard] = true
		}
	}
	if len(stale) > 0 {
		r.readAgain(stale)
	}
	front := map[*strand][]record{}
	for _, rec := range r.filter(back) {
		s := t.strand(rec.shard)
		front[s] = append(front[s], rec)
	}
	for s, recs := range front {
		behind := s.queue
		s.queue = append(recs, behind...)
		clear(behind)
	}
}

// readAgain empties the queues of shards that were lost and won back while messages of theirs were under way: those
// are dropped, and what was read since would overtake them.
func (r *Relay) readAgain(shards map[int]bool) {
	for _, t := range r.topics {
		for _, s := range t.strands {
			s.queue = slices.DeleteFunc(s.queue, func(rec record) bool {
				if shards[rec.shard] {
					r.removed = append(r.removed, rec.seq)
				}
				return shards[rec.shard]
			})
		}
	}
	r.rescan = true
	r.reading.set()
}

// fail notes a failure of the topic, which rests for a while. The caller holds mu.
func (r *Relay) fail(t *topic, err error) {
	if t.failures == 0 {
		t.since = time.Now()
	}
	t.failures++
	t.err = err
	r.cfg.Logger.Warn("outbox cannot publish", "topic", t.name, "failures", t.failures, "error", err)
	d := r.backoff(t.failures - 1)
	t.resume = time.Now().Add(d/2 + rand.N(d/2+1))
}

// transmit publishes messages. After an error, failed tells which were not published; nil means any.
func (r *Relay) transmit(topic string, recs []record) (failed map[int]bool, err error) {
	ctx, end := r.call(recs)
	defer end()
	msgs := make([]*message.Message, len(recs))
	for i := range recs {
		if msgs[i], err = recs[i].message(ctx); err != nil {
			return nil, refusedError{err}
		}
	}
	err = r.publish(topic, msgs)
	var partial interface{ Failed() []int }
	if err != nil && errors.As(err, &partial) {
		failed = map[int]bool{}
		for _, i := range partial.Failed() {
			failed[i] = true
		}
	}
	return failed, err
}

func (r *Relay) publish(topic string, msgs []*message.Message) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("outbox: publisher panicked: %v", v)
		}
	}()
	return r.to.Publish(topic, msgs...)
}

// refusedError is the error of a message that can never be published.
type refusedError struct{ err error }

func (e refusedError) Error() string { return e.err.Error() }
func (e refusedError) Unwrap() error { return e.err }
func (e refusedError) Refused() bool { return true }

// refused reports whether err says that the message, not the publisher, is to blame.
func refused(err error) bool {
	var r interface{ Refused() bool }
	return errors.As(err, &r) && r.Refused()
}
