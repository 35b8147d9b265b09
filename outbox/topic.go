package outbox

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// A topic is what a relay has in memory for one topic. At most one Publish is under way for it, by the worker
// that lives as long as there is something to do: this keeps the order, and no topic waits for another.
type topic struct {
	name    string
	queue   []record // to be published, in order
	memory  []record // where the queue grew to its greatest length
	batch   []record // being published
	trials  []*trial // from the retry table
	running bool
	behind  bool // the reader reads it by a scan of its own, and waits for room

	failures int       // in a row
	since    time.Time // of the first of them
	err      error     // of the last of them
	offset   int       // where the next sweep begins
	cycled   bool      // sweeps have come round to the front without success
	sentAt   time.Time // when the Publish under way began; zero when none is
	accepted uint64    // messages that the publisher took
	undone   int       // those of them that were not deleted yet: a crash would publish them again
}

// start starts the topic's worker if it has work. The caller holds mu.
func (r *Relay) start(t *topic) {
	if t.running || r.paused || len(t.queue)+len(t.trials) == 0 {
		return
	}
	select {
	case <-r.stopping:
		return
	default:
	}
	t.running = true
	s := r.state
	s.workers.Go(func() { r.work(t) })
}

// work publishes until there is nothing to do.
func (r *Relay) work(t *topic) {
	for {
		batch, tr := r.take(t)
		var pause time.Duration
		switch {
		case tr != nil:
			r.try(t, tr)
		case len(batch) == 0:
			return
		case t.failures == 0: // only the worker changes it
			pause = r.publishBatch(t, batch)
		default:
			pause = r.sweep(t, batch)
		}
		if pause > 0 {
			r.rest(pause)
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

// take returns what the worker publishes next. Without work, or when the relay stops, the worker ends.
func (r *Relay) take(t *topic) ([]record, *trial) {
	for {
		r.mu.Lock()
		if len(t.queue) == 0 {
			t.recover() // what failed went to another relay
		}
		if r.idle(t) {
			t.running = false
			clear(t.batch)
			r.mu.Unlock()
			return nil, nil
		}
		if r.full(t) {
			r.freed.Wait()
			r.mu.Unlock()
			continue
		}
		if r.fresh() {
			break
		}
		r.mu.Unlock()
		r.rest(minPoll) // for the next renewal of the leases
	}
	defer r.mu.Unlock()
	if len(t.trials) > 0 && t.failures == 0 {
		tr := t.trials[0]
		t.trials = t.trials[1:]
		tr.rows = tr.rows[:min(len(tr.rows), r.cfg.perCall())]
		t.sentAt = time.Now()
		return nil, tr
	}
	n := len(t.queue) // after a failure all of it: a message that passes may be far behind one that does not
	if t.failures == 0 {
		n = min(n, r.cfg.perCall())
	}
	t.pop(n)
	for i := range t.batch {
		r.flying[t.batch[i].shard]++
	}
	t.sentAt = time.Now()
	if t.behind && len(t.queue) <= r.cfg.Buffer/2 {
		r.reading.set()
	}
	return t.batch, nil
}

// push appends to the queue. What was popped since makes room for it, once that is half of the memory.
func (t *topic) push(rec record) {
	if len(t.queue) == cap(t.queue) && len(t.queue) <= cap(t.memory)/2 {
		t.queue = append(t.memory[:0], t.queue...)
		clear(t.queue[len(t.queue):cap(t.queue)])
	}
	t.queue = append(t.queue, rec)
	if cap(t.queue) > cap(t.memory) {
		t.memory = t.queue[:0]
	}
}

// pop moves messages from the front of the queue to the batch.
func (t *topic) pop(n int) {
	t.batch = append(t.batch[:0], t.queue[:n]...)
	clear(t.queue[:n])
	t.queue = t.queue[n:]
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

// recover forgets failures.
func (t *topic) recover() { t.failures, t.err, t.offset, t.cycled = 0, nil, 0, false }

// idle reports whether the worker has nothing to do.
func (r *Relay) idle(t *topic) bool {
	select {
	case <-r.stopping:
		return true
	default:
	}
	return r.paused || len(t.queue) == 0 && (len(t.trials) == 0 || t.failures > 0)
}

// mine reports whether a message may be published under the lease under which it was read.
func (r *Relay) mine(rec *record) bool {
	epoch, ok := r.held[rec.shard]
	return ok && epoch == rec.epoch && !r.closing[rec.shard] && r.barred[rec.shard] == 0
}

// purge drops from the queues what is not ours to publish any longer. The caller holds mu.
func (r *Relay) purge() {
	for _, t := range r.topics {
		t.queue = r.filter(t.queue)
		if len(t.queue) == 0 && !t.running {
			t.recover()
		}
		t.trials = slices.DeleteFunc(t.trials, func(tr *trial) bool {
			if r.ours(tr) {
				return false
			}
			r.flying[tr.rows[0].shard]--
			tr.lane.busy = false
			return true
		})
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

// publishBatch publishes batch by one call and returns how long to rest.
func (r *Relay) publishBatch(t *topic, batch []record) time.Duration {
	failed, err := r.send(t.name, batch)
	r.mu.Lock()
	defer r.mu.Unlock()
	t.sentAt = time.Time{}
	if err == nil {
		r.accept(t, batch...)
		return 0
	}
	var back []record
	for i := range batch {
		if failed == nil || failed[i] {
			back = append(back, batch[i])
		} else {
			r.accept(t, batch[i])
		}
	}
	r.giveBack(t, back)
	return r.fail(t, err)
}

// accept notes that messages were published; the deleter does the rest.
func (r *Relay) accept(t *topic, recs ...record) {
	if len(recs) == 0 {
		return
	}
	t.accepted += uint64(len(recs))
	t.failures, t.err, t.offset = 0, nil, 0
	t.undone += len(recs)
	r.took(len(recs))
	for i := range recs {
		r.acked = append(r.acked, ack{recs[i].seq, recs[i].shard, t})
	}
	r.deleting.set()
}

// giveBack puts messages that were taken back in front of the queue.
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
	back = r.filter(back)
	t.queue = append(back[:len(back):len(back)], t.queue...)
}

// readAgain empties the queues of shards that were lost and won back while messages of theirs were under way: those
// are dropped, and what was read since would overtake them.
func (r *Relay) readAgain(shards map[int]bool) {
	for _, t := range r.topics {
		t.queue = slices.DeleteFunc(t.queue, func(rec record) bool {
			if shards[rec.shard] {
				r.removed = append(r.removed, rec.seq)
			}
			return shards[rec.shard]
		})
	}
	r.rescan = true
	r.reading.set()
}

// fail notes a failure of the topic and returns how long to rest.
func (r *Relay) fail(t *topic, err error) time.Duration {
	if t.failures == 0 {
		t.since = time.Now()
	}
	t.failures++
	t.err = err
	r.cfg.Logger.Warn("outbox cannot publish", "topic", t.name, "failures", t.failures, "error", err)
	d := r.backoff(t.failures - 1)
	return d/2 + rand.N(d/2+1)
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
