package cqrs

import (
	"context"
	"math"
	"reflect"
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
	turns := (backlog + 3) * r.p.cfg.MaxBatch
	if limit := r.p.cfg.HandlerTimeout; limit > 0 && limit < (math.MaxInt64-shortestLease)/time.Duration(turns) {
		lease = min(lease, time.Duration(turns)*limit+shortestLease)
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

// outstanding are the messages that were leased and handed to lanes, and are not settled yet.
type outstanding struct {
	mu      sync.Mutex
	byID    map[string]*leased
	again   []*leased // to be handed out now that what they waited for is settled
	settled sync.WaitGroup
}

// A leased message is outstanding, or waits until it is settled as it was leased before.
type leased struct {
	parked *Parked   // as it was handed out
	lease  string    // under which it is settled
	chain  *chain    // of those of its queue that were leased together; nil: not known yet
	again  []*leased // itself as it was last leased since, if it was, and what has to wait for it
}

// add notes messages that were just leased, and returns those to hand out: first those to be handed out again, whose
// leases are older. One that is outstanding already, because its lease was too short for the time in its lane, is
// settled under the new lease, if its row is what it was: another process may have run it meanwhile, or moved it to the
// queue of its key, or somebody has edited it. Then, as when it was settled before it was leased anew and we have yet
// to hear of it, it is handed out again.
func (o *outstanding) add(due []*leased) (fresh []*leased) {
	o.mu.Lock()
	defer o.mu.Unlock()
	due, o.again = append(o.again, due...), nil
	chains, blockers := map[string]*chain{}, map[string]*leased{}
	for _, n := range due {
		pk, l := n.parked, o.byID[n.parked.ID]
		if n.chain == nil {
			n.chain = chains[pk.Queue]
		}
		b := blockers[pk.Queue]
		if b == nil && l != nil && l.renew(n) {
			chains[pk.Queue] = l.chain
			continue
		}
		if n.chain == nil {
			n.chain = &chain{}
		}
		chains[pk.Queue] = n.chain
		switch {
		case b != nil:
			b.again = append(b.again, n)
		case l != nil:
			l.again, blockers[pk.Queue] = []*leased{n}, l
		default:
			o.byID[pk.ID] = n
			o.settled.Add(1)
			fresh = append(fresh, n)
		}
	}
	return fresh
}

// renew has a message settled under its new lease, unless it has changed, those leased with it now are others, or one
// of those leased with it before is not done: then it does not run as it is.
func (l *leased) renew(n *leased) bool {
	if l.chain.broken.Load() || n.chain != nil && n.chain != l.chain || l.parked.Dead != n.parked.Dead ||
		!reflect.DeepEqual(l.parked.Record, n.parked.Record) {
		return false
	}
	n.chain, l.lease, l.again = l.chain, n.lease, []*leased{n}
	return true
}

// lease returns under which lease a message is to be settled.
func (o *outstanding) lease(pk *Parked) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if l := o.byID[pk.ID]; l != nil {
		return l.lease
	}
	return pk.Lease // its batch was given up
}

// remove notes that a message is settled.
func (o *outstanding) remove(pk *Parked) {
	o.mu.Lock()
	defer o.mu.Unlock()
	again := o.byID[pk.ID].again
	if len(again) > 0 && again[0].lease == pk.Lease {
		again = again[1:]
	}
	o.again = append(o.again, again...)
	delete(o.byID, pk.ID)
	o.settled.Done()
}

// count returns how many messages are outstanding, and whether there are some to hand out again.
func (o *outstanding) count() (n int, again bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.byID), len(o.again) > 0
}

// leaseDue leases due messages and hands them to their lanes, as many as make a batch for each lane; it does not wait
// for them, or one that is slow would hold up those of all other lanes. Only a lane whose backlog is full does that, as
// it does to what is fresh. It reports whether there may be more.
func (r *runner) leaseDue() (more bool, err error) {
	n, again := r.out.count()
	if again {
		r.handOut(nil)
		return true, nil
	}
	limit := min(r.p.cfg.MaxBatch, r.p.cfg.Lanes*r.p.cfg.MaxBatch-n)
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

// handOut gives leased messages, and those to be handed out again, to their lanes.
func (r *runner) handOut(due []*Parked) {
	all := make([]*leased, len(due))
	for i, pk := range due {
		all[i] = &leased{parked: pk, lease: pk.Lease}
	}
	for _, l := range r.out.add(all) {
		it := r.parkedItem(l.parked, l.chain)
		if !r.laneOf(it).put(r.intake, it) {
			it.release()
		}
	}
}

// parkedDone notes that a message is settled: the next of its queue may be due, and there is room for others.
func (r *runner) parkedDone(pk *Parked) {
	r.out.remove(pk)
	r.wake(0)
}
