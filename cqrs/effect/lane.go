package effect

import "time"

// A lane is one effect's queue in memory. All of it is guarded by the runner's mutex.
type lane struct {
	name    string
	timeout time.Duration
	caller  caller

	queue   []*Record
	calling int           // outside
	left    chan struct{} // has one of each call that was left behind
	busy    int           // outside, or settling

	// While the provider cannot be reached, one call at a time finds out whether it can again.
	until   time.Time // no calls before
	probing bool
	timer   *time.Timer

	full bool // the last look at the store passed it by
}

func (l *lane) paused() bool { return time.Now().Before(l.until) }

// clear forgets what waits; the store still has it. The caller holds r.mu.
func (r *Runner) clear(l *lane) {
	for _, rec := range l.queue {
		delete(r.known, rec.holding())
	}
	l.queue = nil
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

// push queues an intent that this runner holds.
func (r *Runner) push(rec *Record) {
	rec.expires = time.Now().Add(rec.Keep)
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lanes[rec.Name]
	if l == nil || r.stopped || rec.Owner != r.owner {
		return // it stays in the store, until the lease of its owner ends
	}
	if r.known[rec.holding()] {
		return // it was taken for astray, and has come back already
	}
	r.known[rec.holding()] = true
	l.queue = append(l.queue, rec)
	r.dispatch(l)
}

// dispatch starts what may be started, with r.mu held.
func (r *Runner) dispatch(l *lane) {
	if !r.alive() || r.stopped {
		return
	}
	for len(l.queue) > 0 && r.free(l) {
		rec := l.queue[0]
		l.queue[0] = nil
		l.queue = l.queue[1:]
		l.calling++
		l.busy++
		r.launch(l, rec)
	}
	if l.full && len(l.queue) <= r.cfg.Backlog/2 {
		l.full = false
		r.wake()
	}
	if len(l.queue) > 0 && l.paused() && l.timer == nil {
		l.timer = time.AfterFunc(time.Until(l.until), func() { r.resume(l) })
	}
}

// settling is how many results may wait for their commit, as a multiple of the calls.
const settling = 4

func (r *Runner) free(l *lane) bool {
	limit := r.cfg.Concurrency
	if l.probing {
		limit = 1
	}
	return !l.paused() && l.calling < limit && l.busy/settling < r.cfg.Concurrency
}

func (r *Runner) resume(l *lane) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.timer = nil
	r.dispatch(l)
	r.wake()
}

// called ends a call. If it was refused before it left, the lane pauses and the intent waits for its turn
// again, at the end of the queue: one that is always refused must not be the only probe.
func (r *Runner) called(l *lane, rec *Record, refused bool, pause time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.calling--
	if !refused {
		l.probing = l.probing && l.paused() // what began before the pause is no probe
		r.dispatch(l)
		return
	}
	l.busy--
	l.probing = true
	if until := time.Now().Add(pause); until.After(l.until) {
		l.until = until
	}
	if !r.stopped && rec.Owner == r.owner {
		l.queue = append(l.queue, rec)
	} else {
		delete(r.known, rec.holding())
	}
	r.dispatch(l)
}

func (r *Runner) done(l *lane) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.busy--
	r.dispatch(l)
}

// forget ends a holding, before the store may: from then on the same one may begin anew. While it is being given back,
// until the function that is returned is called, it is not astray either.
func (r *Runner) forget(rec *Record) (left func()) {
	h := rec.holding()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, h)
	r.leaving[h]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.leaving[h]--; r.leaving[h] == 0 {
			delete(r.leaving, h)
		}
	}
}
