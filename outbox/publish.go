package outbox

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

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
	return r.publish(topic, msgs)
}

// publish calls the publisher, and looks at its error, so that neither a panic nor a Goexit there ends a strand.
func (r *Relay) publish(topic string, msgs []*message.Message) (failed map[int]bool, err error) {
	err = guarded("the publisher", func() error {
		err := r.to.Publish(topic, msgs...)
		failed = failedOf(err)
		return err
	})
	return failed, err
}

// guarded calls a function of somebody else's on a goroutine of its own, and makes an error of how it ends that.
func guarded(who string, fn func() error) error {
	err := fmt.Errorf("outbox: %s ended its goroutine", who)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("outbox: %s panicked: %v", who, v)
			}
		}()
		err = fn()
	}()
	<-done
	return err
}

// failedOf returns which messages were not published, nil if err does not say. It looks at everything that an error is
// asked later, so that one that panics then, as a typed nil may, panics here.
func failedOf(err error) (failed map[int]bool) {
	if err == nil {
		return nil
	}
	_, _ = refused(err), errorText(err)
	var partial interface{ Failed() []int }
	if errors.As(err, &partial) {
		failed = map[int]bool{}
		for _, i := range partial.Failed() {
			failed[i] = true
		}
	}
	return failed
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
