package uow

import (
	"context"
	"errors"
	"fmt"
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

// write runs transactions until the queue is empty.
func (u *UnitOfWork) write() {
	for {
		batch, more := u.take()
		if !more {
			return
		}
		if len(batch) > 0 {
			u.settle(batch, 0, false)
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
func (u *UnitOfWork) settle(batch []*call, tries int, savepoints bool) {
	var alone []*call
	for restarts := 0; len(batch) > 0; restarts++ {
		solo := len(batch) == 1
		savepoints = savepoints || restarts >= maxRestarts
		r := u.try(batch, savepoints)
		switch {
		case r.err == nil:
			u.answer(batch)
			batch = nil
		case solo && r.nested && !r.final && !savepoints:
			u.stats.restarts.Add(1)
			savepoints = true // a part of it has to be undone, which does not mean that it fails
		case r.culprit != nil:
			u.stats.restarts.Add(1)
			batch = slices.DeleteFunc(slices.Clone(batch), func(c *call) bool { return c == r.culprit })
			if r.final || solo {
				u.fail(r.culprit, r.err)
			} else {
				alone = append(alone, r.culprit)
			}
		case errors.Is(r.err, ErrOutcomeUnknown), r.transient && tries >= u.cfg.Retries,
			!r.transient && (solo || r.unbegun):
			for _, c := range batch {
				u.fail(c, r.err)
			}
			batch = nil
		default:
			if r.transient {
				u.stats.retries.Add(1)
				u.cfg.Logger.Debug("transaction runs again", "parts", len(batch), "try", tries+1, "error", r.err)
				backoff(tries)
				tries++
			}
			half := (len(batch) + 1) / 2
			if r.unbegun { // halves would fail as the whole did, one after the other
				half = len(batch)
			}
			u.settle(batch[:half], tries, savepoints)
			u.settle(batch[half:], tries, savepoints)
			batch = nil
		}
	}
	for _, c := range alone {
		u.settle([]*call{c}, 0, true)
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
	if !c.exited {
		c.end(err)
	}
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
	nested    bool  // what could not be undone is a nested part of the culprit's
	transient bool  // nobody is to blame; running again may help
	unbegun   bool  // there was no transaction at all
}

// try runs the parts of batch in one transaction.
func (u *UnitOfWork) try(batch []*call, savepoints bool) result {
	t, err := u.begin(savepoints, len(batch) > 1)
	if err != nil {
		return result{err: err, transient: u.dialect.transient(err), unbegun: true}
	}
	defer t.close()
	if err := t.prepare(batch); err != nil {
		t.rollback()
		return t.blameHook(err)
	}
	for _, c := range batch {
		if c.exited {
			continue
		}
		if r := t.part(c); r.err != nil {
			t.rollback()
			return r
		}
	}
	if err := t.flush(); err != nil {
		t.rollback()
		return t.blameHook(err)
	}
	if err := t.commit(); err != nil {
		return result{err: err, transient: u.dialect.transient(err)}
	}
	t.announce()
	return result{}
}

// part passes the turn to c and waits until its fn has returned, or its time is up.
func (t *transaction) part(c *call) result {
	c.err, c.panicked = nil, nil
	f := t.frame(nil, preparedOf(c.ctx))
	f.bound = f.prepared.binds() // what was written for it when the transaction began goes with it
	f.wrote = f.bound
	ctx, cancel := t.partContext(c.ctx, f)
	defer cancel()
	a := &attempt{ctx: ctx, done: make(chan struct{})}
	c.turn <- a
	select {
	case <-a.done:
	case <-ctx.Done():
		select {
		case <-a.done:
		default:
			f.end()
			t.ruin(errHung) // for the frames inside f
			return result{err: errHung, culprit: c, final: true}
		}
	}
	f.end()
	c.panicked, c.exited = a.panicked, a.exited
	broken := a.panicked != nil || a.exited
	if broken && a.err == nil {
		a.err = errBroken
	}
	if a.err == nil && f.sound() {
		f.keep()
		return result{}
	}
	if a.err == nil { // fn swallowed an error that ended the transaction
		a.err = fmt.Errorf("%w: %w", ErrDoomed, f.failure())
	}
	nested := errors.As(t.cause(), new(*restart))
	if f.undo(a.err) {
		c.err = a.err
		return result{}
	}
	r := t.blame(c, a.err)
	r.nested, r.final = nested, broken || ctx.Err() != nil
	return r
}

// blameHook is blame for what was prepared or gathered, where a nested Do may have failed too.
func (t *transaction) blameHook(err error) result {
	r := t.blame(nil, err)
	r.nested = errors.As(t.cause(), new(*restart))
	return r
}

// blame decides whose fault it is that the transaction cannot go on.
func (t *transaction) blame(c *call, err error) result {
	cause := t.cause()
	var own *restart // fn's own failure, which running again as it was would not change
	if cause != nil && !errors.As(cause, &own) && t.unit.dialect.transient(cause) {
		return result{err: cause, transient: true}
	}
	if c == nil && t.unit.dialect.transient(err) {
		return result{err: err, transient: true}
	}
	return result{err: err, culprit: c}
}

// partContext gives fn the caller's values and the transaction, and our deadline in place of the caller's.
func (t *transaction) partContext(caller context.Context, f *frame) (context.Context, context.CancelFunc) {
	ctx := context.WithValue(context.WithoutCancel(caller), frameKey{}, f)
	if t.unit.cfg.PartTimeout < 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, t.unit.cfg.PartTimeout, errHung)
}
