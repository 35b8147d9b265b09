package uow

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"
)

// maxRestarts bounds how often a group is run again without the part that failed. A group in which still more
// parts fail runs with savepoints instead, which undo each part alone at once.
const maxRestarts = 3

// enqueue queues c and starts a writer if there is room for one more.
func (u *UnitOfWork) enqueue(c *call) {
	u.mu.Lock()
	u.queue = append(u.queue, c)
	start := u.writers < u.cfg.Writers
	if start {
		u.writers++
	}
	full := len(u.queue) >= u.cfg.MaxShare
	u.mu.Unlock()
	if start {
		go u.write()
	}
	if full {
		select {
		case u.full <- struct{}{}:
		default:
		}
	}
}

// A writer runs transactions, one after the other.
type writer struct {
	*UnitOfWork
	runner *runner // of the parts; nil until it is needed
}

// write runs transactions until the queue is empty.
func (u *UnitOfWork) write() {
	w := &writer{UnitOfWork: u}
	defer w.dismiss()
	for {
		batch, more := u.take()
		if !more {
			return
		}
		if len(batch) > 0 {
			w.settle(batch, 0, false)
		}
	}
}

// take takes up to MaxShare waiting calls; more is false when the writer is not needed any longer.
func (u *UnitOfWork) take() (batch []*call, more bool) {
	u.gather()
	u.linger()
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.queue) == 0 {
		u.writers--
		return nil, false
	}
	n := min(u.cfg.MaxShare, len(u.queue))
	for _, c := range u.queue[:n] {
		if !c.state.CompareAndSwap(queued, taken) {
			continue
		}
		if err := c.ctx.Err(); err != nil {
			c.end(err)
			continue
		}
		batch = append(batch, c)
	}
	u.queue = slices.Delete(u.queue, 0, n)
	return batch, true
}

// gather lets callers that are about to queue, those that were just answered above all, get in first. It goes on as
// long as more of them come, and costs nothing when there are none.
func (u *UnitOfWork) gather() {
	for n := -1; ; {
		u.mu.Lock()
		queued := len(u.queue)
		u.mu.Unlock()
		if queued <= n || queued >= u.cfg.MaxShare {
			return
		}
		n = queued
		runtime.Gosched()
	}
}

// linger waits until the queue holds a full transaction, at most for the configured time.
func (u *UnitOfWork) linger() {
	if u.cfg.Linger == 0 {
		return
	}
	u.mu.Lock()
	n := len(u.queue)
	u.mu.Unlock()
	if n == 0 || n >= u.cfg.MaxShare {
		return
	}
	timer := time.NewTimer(u.cfg.Linger)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-u.full:
	}
}

// settle runs batch until each of its calls has its answer.
func (w *writer) settle(batch []*call, tries int, savepoints bool) {
	var alone []*call
	for restarts := 0; len(batch) > 0; restarts++ {
		solo := len(batch) == 1
		savepoints = savepoints || restarts >= maxRestarts
		r := w.try(batch, savepoints)
		hopeless := !r.transient || tries >= w.cfg.Retries
		switch {
		case r.err == nil:
			w.answer(batch)
			batch = nil
		case solo && r.nested && !r.final && !savepoints:
			w.stats.restarts.Add(1)
			savepoints = true // a part of it has to be undone, which does not mean that it fails
		case r.culprit != nil:
			w.stats.restarts.Add(1)
			batch = slices.DeleteFunc(slices.Clone(batch), func(c *call) bool { return c == r.culprit })
			if r.final || solo {
				w.fail(r.culprit, r.err)
			} else {
				alone = append(alone, r.culprit)
			}
		case errors.Is(r.err, ErrOutcomeUnknown), r.transient && w.cfg.Retries == 0,
			hopeless && (solo || r.unbegun): // a group that began is halved all the same: only one part may be at fault
			for _, c := range batch {
				w.fail(c, r.err)
			}
			batch = nil
		default:
			if r.transient {
				w.stats.retries.Add(1)
				w.cfg.Logger.Debug("transaction runs again", "parts", len(batch), "try", tries+1, "error", r.err)
				backoff(tries)
				tries++
			}
			half := (len(batch) + 1) / 2
			if r.unbegun { // halves would fail as the whole did, one after the other
				half = len(batch)
			}
			w.settle(batch[:half], tries, savepoints)
			w.settle(batch[half:], tries, savepoints)
			batch = nil
		}
	}
	for _, c := range alone {
		w.settle([]*call{c}, 0, true)
	}
}

// answer ends the calls of a committed transaction: nil, or the error with which a part kept its place.
func (u *UnitOfWork) answer(batch []*call) {
	u.stats.commits.Add(1)
	u.stats.parts.Add(int64(len(batch)))
	for _, c := range batch {
		u.fail(c, c.err)
	}
}

func (u *UnitOfWork) fail(c *call, err error) {
	if c.panicked != nil {
		u.cfg.Logger.Error("part panicked", "panic", c.panicked.value, "stack", string(c.panicked.stack))
	}
	c.end(err)
}

// backoff waits 1 ms, 2 ms, 4 ms … at most 128 ms, each with full jitter.
func backoff(tries int) {
	ceiling := time.Millisecond << min(tries, 7)
	timer := time.NewTimer(ceiling/2 + rand.N(ceiling))
	defer timer.Stop()
	<-timer.C
}

// A result says what became of one transaction.
type result struct {
	err       error
	culprit   *call // the part to blame, if one is
	final     bool  // the culprit is not to run again
	nested    bool  // what could not be undone is a nested part of the culprit's, or a statement that was queued
	transient bool  // nobody is to blame; running again may help
	unbegun   bool  // there was no transaction at all
}

// try runs the parts of batch in one transaction.
func (w *writer) try(batch []*call, savepoints bool) result {
	t, err := w.begin(savepoints, len(batch) > 1)
	if err != nil {
		return result{err: err, transient: w.dialect.transient(err), unbegun: true}
	}
	defer t.close()
	if err := t.prepare(batch); err != nil {
		t.rollback()
		return t.blameHook(err)
	}
	if r := w.parts(t, batch); r.err != nil {
		t.rollback()
		return r
	}
	if err := t.flush(); err != nil {
		t.rollback()
		return t.blameHook(err)
	}
	if err := t.commit(); err != nil {
		return result{err: err, transient: w.dialect.transient(err)}
	}
	t.announce()
	return result{}
}

// blameHook is blame for what was prepared or gathered, where a nested Do may have failed too.
func (t *transaction) blameHook(err error) result {
	r := t.blame(nil, err)
	r.nested = r.nested || errors.As(t.cause(), new(*restart))
	return r
}

// blame decides whose fault it is that the transaction cannot go on.
func (t *transaction) blame(c *call, err error) result {
	cause := t.cause()
	if late := (*queueError)(nil); errors.As(cause, &late) {
		return result{err: late.err, culprit: late.call, nested: true}
	}
	var own *restart // fn's own failure, which running again as it was would not change
	if cause != nil && !errors.As(cause, &own) && t.unit.dialect.transient(cause) {
		return result{err: cause, transient: true}
	}
	if c == nil && t.unit.dialect.transient(err) {
		return result{err: err, transient: true}
	}
	return result{err: err, culprit: c}
}
