package cqrs

import (
	"context"
	"sync"
	"time"
)

// drainParked runs parked messages that are due until the intake stops. It sleeps until the earliest due time that
// this process knows of, or for Poll, because others park too.
func (r *runner) drainParked() {
	for pause := time.Duration(0); ; {
		n, err := r.runDue()
		switch {
		case err != nil:
			pause = min(max(2*pause, 50*time.Millisecond), 5*time.Second)
			r.p.log.Error("parked messages cannot be leased", "error", err, "wait", pause)
			if !sleep(r.intake, pause) {
				return
			}
		case n > 0:
			pause = 0
			if r.intake.Err() != nil {
				return
			}
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
	for {
		wait := time.Until(end)
		if at := r.due.Load(); at != 0 {
			wait = min(wait, time.Until(time.Unix(0, at)))
		}
		if wait <= 0 {
			r.due.Store(0)
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

// runDue leases due messages, has their lanes run them, and waits for the outcome.
func (r *runner) runDue() (int, error) {
	var due []*Parked
	err := r.p.do(r.intake, func(ctx context.Context) (err error) {
		due, err = r.p.cfg.Parking.Lease(ctx, r.p.group, r.p.cfg.MaxBatch, r.leaseFor())
		return err
	})
	if err != nil {
		if r.intake.Err() != nil {
			return 0, nil
		}
		return 0, err
	}
	var done sync.WaitGroup
	chains := map[string]*chain{}
	for _, pk := range due {
		done.Add(1)
		it := r.parkedItem(pk, &done)
		if chains[pk.Queue] == nil {
			chains[pk.Queue] = &chain{}
		}
		it.chain = chains[pk.Queue]
		if !r.laneOf(it).put(r.intake, it) {
			it.release()
		}
	}
	done.Wait()
	return len(due), nil
}
