package cqrs

import (
	"context"
	"slices"
	"sync"
	"time"
)

// drainParked has parked messages run that are due until the intake stops, and waits for what it has handed out. It
// sleeps until the earliest due time that this process knows of, or for Poll, because others park too.
func (r *runner) drainParked() {
	defer r.out.settled.Wait()
	for pause := time.Duration(0); ; {
		more, err := r.leaseDue()
		switch {
		case err != nil:
			pause = min(max(2*pause, 50*time.Millisecond), 5*time.Second)
			r.p.log.Error("parked messages cannot be leased", "error", err, "wait", pause)
			if !sleep(r.intake, pause) {
				return
			}
		case more:
			pause = 0
		default:
			pause = 0
			if !r.idle() {
				return
			}
		}
	}
}

// idle waits until something may be due, or reports that the intake stopped.
func (r *runner) idle() bool {
	end := time.Now().Add(r.p.cfg.Poll)
	for r.intake.Err() == nil {
		wait := time.Until(end)
		if at, ok := r.due.next(); ok {
			wait = min(wait, time.Until(at))
		}
		if wait <= 0 {
			r.due.pass(time.Now())
			return true
		}
		timer := time.NewTimer(wait)
		select {
		case <-r.intake.Done():
			timer.Stop()
			return false
		case <-r.pollNow: // the due time may have moved
		case <-timer.C:
		}
		timer.Stop()
	}
	return false
}

// dues are the times at which parked messages are due, as far as this process knows, by its clock. Its zero value is
// ready.
type dues struct {
	mu    sync.Mutex
	times []time.Time // sorted, distinct
}

// What is due within dueStep is looked for together. Of more times than maxDues the latest are left to Poll.
const (
	dueStep = 10 * time.Millisecond
	maxDues = 1000
)

func (d *dues) add(at time.Time) {
	at = at.Round(0).Add(dueStep - 1).Truncate(dueStep)
	d.mu.Lock()
	defer d.mu.Unlock()
	if i, found := slices.BinarySearchFunc(d.times, at, time.Time.Compare); !found && i < maxDues {
		d.times = slices.Insert(d.times[:min(len(d.times), maxDues-1)], i, at)
	}
}

// next returns the earliest time, if there is one.
func (d *dues) next() (at time.Time, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.times) == 0 {
		return at, false
	}
	return d.times[0], true
}

// pass forgets the times that have come.
func (d *dues) pass(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.times = slices.DeleteFunc(d.times, func(at time.Time) bool { return !at.After(now) })
}

const shortestLease = 5 * time.Second

// leaseFor is how long a leased message belongs to this process, and so how long it waits when the process dies.
// A lease that ends too early does no harm, for it is checked when the message is consumed: the run is in vain, and
// the next lease is longer. Before the message's turn its lane has to end a transaction and those of its backlog, so a
// lease may become as long as all their handlers may take one after the other.
// What has killed its process must not be leased by another one before that one knows of the death.
func (r *runner) leaseFor() time.Duration {
	lease := max(shortestLease, (backlog+3)*time.Duration(r.slowest.Load()))
	if limit := r.p.cfg.HandlerTimeout; limit > 0 {
		lease = min(lease, (backlog+3)*time.Duration(r.p.cfg.MaxBatch)*limit+shortestLease)
	}
	if r.vigil != nil {
		lease = max(lease, beatLasts+2*beatEvery)
	}
	return lease
}

// took notes how long a transaction took.
func (r *runner) took(d time.Duration) {
	for {
		old := r.slowest.Load()
		if int64(d) <= old || r.slowest.CompareAndSwap(old, int64(d)) {
			return
		}
	}
}

// out is what was leased and handed to lanes, and is not settled yet.
type out struct {
	mu      sync.Mutex
	ids     map[string]bool
	settled sync.WaitGroup
}

// add notes a message, or reports that it is out already.
func (o *out) add(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ids[id] {
		return false
	}
	o.ids[id] = true
	o.settled.Add(1)
	return true
}

func (o *out) remove(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.ids, id)
	o.settled.Done()
}

func (o *out) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.ids)
}

// leaseDue leases due messages and hands them to their lanes, as many as make a batch for each lane; it does not wait
// for them, or one that is slow would hold up those of all other lanes. It reports whether there may be more.
func (r *runner) leaseDue() (more bool, err error) {
	limit := min(r.p.cfg.MaxBatch, r.p.cfg.Lanes*r.p.cfg.MaxBatch-r.out.count())
	if limit <= 0 {
		return false, nil
	}
	var due []*Parked
	err = r.p.do(r.intake, func(ctx context.Context) (err error) {
		due, err = r.p.cfg.Parking.Lease(ctx, r.p.group, limit, r.leaseFor())
		return err
	})
	if err != nil {
		if r.intake.Err() != nil {
			return false, nil
		}
		return false, err
	}
	r.handOut(due)
	return len(due) == limit, nil
}

// handOut gives leased messages to their lanes. One that is still in its lane, because its lease was too short, is not
// given to it again; nor is what follows, or it might run before the other, whose run will be in vain.
func (r *runner) handOut(due []*Parked) {
	chains := map[string]*chain{} // nil: the rest of the queue has to wait
	for _, pk := range due {
		c, known := chains[pk.Queue]
		if !known {
			c = &chain{}
		}
		if c != nil && !r.out.add(pk.ID) {
			c = nil
		}
		if chains[pk.Queue] = c; c == nil {
			continue
		}
		it := r.parkedItem(pk, func() {
			r.out.remove(pk.ID)
			r.wake(0) // the next of its queue may be due, and there is room for others
		})
		it.chain = c
		if !r.laneOf(it).put(r.intake, it) {
			it.release()
		}
	}
}
