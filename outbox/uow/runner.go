package uow

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// A runner is a goroutine on which a writer has parts run, so that one that hangs, or ends its goroutine, leaves the
// writer free to go on.
type runner struct{ shifts chan *shift }

// work runs shifts until there are no more, or it is given up.
func (r *runner) work(s *shift) {
	for ; s != nil; s = <-r.shifts {
		if !s.run(r) {
			return
		}
	}
}

// dismiss ends the writer's runner, which is idle.
func (w *writer) dismiss() {
	if w.runner != nil {
		close(w.runner.shifts)
		w.runner = nil
	}
}

// parts has the runner run the parts of a transaction, until one fails and cannot be undone alone, or hangs.
func (w *writer) parts(t *transaction, batch []*call) result {
	s := &shift{t: t, batch: batch, began: time.Now(), done: make(chan struct{}, 1)}
	if w.runner == nil {
		w.runner = &runner{shifts: make(chan *shift)}
		go w.runner.work(s)
	} else {
		w.runner.shifts <- s
	}
	limit := w.cfg.PartTimeout
	if limit < 0 {
		<-s.done
		return s.result
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case <-s.done:
			return s.result
		case <-timer.C:
		}
		hung, left := s.giveUp(limit)
		if hung != nil {
			w.runner = nil
			return result{err: errHung, culprit: hung, final: true}
		}
		timer.Reset(left)
	}
}

// A shift is the parts of one transaction, on their way through a runner.
type shift struct {
	t     *transaction
	batch []*call
	began time.Time
	done  chan struct{} // the result is there; room for one

	// The runner's, the result until it is done.
	result  result
	next    int // part
	ctx     context.Context
	close   context.CancelFunc
	outcome outcome
	ran     bool // the fn of part next is over

	// Runner and writer agree by turn on who has the part: it is the part's number, from 1, while its fn runs, 0
	// between parts, and givenUp when the writer has taken it away.
	turn  atomic.Int64
	since atomic.Int64          // when fn was called, counted from began
	frame atomic.Pointer[frame] // the part's
}

const givenUp = -1

// An outcome is how fn ended.
type outcome struct {
	err      error
	panicked *panicked
	exited   bool
}

// giveUp takes the part away whose fn has been running for limit, and cuts it off. If there is none it returns when to
// look again.
func (s *shift) giveUp(limit time.Duration) (hung *call, left time.Duration) {
	turn := s.turn.Load()
	left = limit
	if turn > 0 {
		left = limit - (time.Since(s.began) - time.Duration(s.since.Load()))
	}
	if left > 0 {
		return nil, left
	}
	c := s.batch[turn-1]
	c.busy.Add(1) // for the runner, until fn returns
	if !s.turn.CompareAndSwap(turn, givenUp) {
		c.busy.Add(-1)
		return nil, limit
	}
	s.frame.Load().end()
	s.t.ruin(errHung) // for the frames inside it
	return c, 0
}

// run runs the parts that are left, and reports whether the runner can take another shift.
func (s *shift) run(r *runner) (stays bool) {
	over := false
	defer func() {
		if !over { // fn has ended the goroutine; another one goes on
			go r.work(s)
		}
	}()
	stays = s.parts()
	over = true
	return stays
}

func (s *shift) parts() (stays bool) {
	for {
		switch {
		case s.ran:
			s.ran = false
			if !s.finish() {
				return false
			}
			s.next++
		case s.result.err != nil || s.next == len(s.batch):
			s.done <- struct{}{}
			return true
		case s.batch[s.next].exited:
			s.next++
		default:
			s.begin()
			s.call()
		}
	}
}

// begin prepares the turn of the next part.
func (s *shift) begin() {
	c, t := s.batch[s.next], s.t
	c.err, c.panicked = nil, nil
	f := t.frame(preparedOf(c.ctx))
	f.call = c
	f.bound = f.prepared.binds() // what was written for it when the transaction began goes with it
	f.wrote = f.bound
	s.ctx, s.close = t.partContext(c.ctx, f)
	s.frame.Store(f)
	s.since.Store(int64(time.Since(s.began)))
	s.turn.Store(int64(s.next) + 1)
}

// call calls fn and notes how it ended, also if it ends the goroutine.
func (s *shift) call() {
	s.outcome = outcome{}
	returned := false
	defer func() {
		s.ran = true
		if returned {
			return
		}
		if v := recover(); v != nil {
			s.outcome.panicked = &panicked{v, debug.Stack()}
		} else {
			s.outcome.exited = true
		}
	}()
	s.outcome.err = s.batch[s.next].fn(s.ctx)
	s.t.unit.dialect.ends(s.outcome.err) // an error that panics when it is looked at, as a typed nil, is fn's panic
	returned = true
}

// finish decides what becomes of the part, and reports false if it was given up before.
func (s *shift) finish() bool {
	c := s.batch[s.next]
	defer s.close()
	if !s.turn.CompareAndSwap(int64(s.next)+1, 0) {
		if p := s.outcome.panicked; p != nil {
			s.t.unit.cfg.Logger.Error("part panicked after it was given up", "panic", p.value, "stack", string(p.stack))
		}
		c.leave()
		return false
	}
	c.panicked, c.exited = s.outcome.panicked, s.outcome.exited
	err := s.outcome.err
	broken := c.panicked != nil || c.exited
	if broken {
		err = errBroken
	}
	s.result = s.t.conclude(c, s.frame.Load(), err)
	if s.result.culprit == c {
		s.result.final = broken || s.ctx.Err() != nil
	}
	return true
}

// conclude ends a part whose fn returned err.
func (t *transaction) conclude(c *call, f *frame, err error) result {
	f.end()
	if err == nil && f.sound() {
		f.keep()
		return result{}
	}
	if err == nil { // fn swallowed an error that ended the transaction
		err = fmt.Errorf("%w: %w", ErrDoomed, f.failure())
	}
	f.unseen(err)
	nested := errors.As(t.cause(), new(*restart))
	if f.undo(err) {
		c.err = err
		return result{}
	}
	r := t.blame(c, err)
	r.nested = r.nested || nested
	return r
}

// partContext gives fn the caller's values and the transaction, and our deadline in place of the caller's.
func (t *transaction) partContext(caller context.Context, f *frame) (context.Context, context.CancelFunc) {
	ctx := context.WithValue(context.WithoutCancel(caller), frameKey{}, f)
	if t.unit.cfg.PartTimeout < 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, t.unit.cfg.PartTimeout, errHung)
}
