package outbox

import (
	"slices"
	"time"
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
	probed   int64     // the message behind which the next sweep begins; 0: at the front
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
	t.failures, t.err, t.resume, t.sweeper, t.probed, t.cycled = 0, nil, time.Time{}, nil, 0, false
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
