package resilience

import (
	"context"
	"fmt"
	"time"
)

// Hedge starts another try when the first has not come back after a while, and so on every after, up to most
// tries in all, 100 at most; the first success wins and the others are canceled. It cuts the tail of response times of
// reads, and is safe only for what may run twice at the same time. Source: Dean and Barroso, "The Tail at
// Scale", Communications of the ACM, 2013.
//
// Further tries are budgeted: a fifth of the calls on average, with a reserve of 10, so that a dependency
// that is slow for all does not get twice the load. A failed try is not replaced before its time; if all
// tries have failed, the call has, with a [*HedgeError] if they were several.
//
// Tries run on goroutines of their own. The call returns when it has a winner; losers end when they heed
// their context. What they may have done is not seen in the winner's success. A panic in a try passes to the
// caller, unless the call has returned already: then it is dropped with the try.
func Hedge(after time.Duration, most int) Policy {
	return &hedge{after: after, most: most, budget: newBudget(0.2)}
}

// mostHedged bounds the tries: every call makes room for all of them.
const mostHedged = 100

type hedge struct {
	after  time.Duration
	most   int
	budget *budget
}

func (h *hedge) describe() string {
	return fmt.Sprintf("hedge every %v, up to %d tries", h.after, h.most)
}
func (h *hedge) fresh() Policy { return Hedge(h.after, h.most) }

func (h *hedge) check() error {
	if h.after <= 0 || h.most < 2 || h.most > mostHedged {
		return fmt.Errorf("the time must be positive, and the tries at least 2 and at most %d", mostHedged)
	}
	return nil
}

func (h *hedge) run(ctx context.Context, c *call, i int) error {
	h.budget.deposit()
	if c.once {
		return c.next(ctx, i)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &race{hedge: h, call: c, layer: i, ended: make(chan racer, h.most)}
	return r.run(ctx)
}

// race is the tries of one hedged call.
type race struct {
	hedge   *hedge
	call    *call
	layer   int
	ended   chan racer // holds every try, so none blocks
	started int
	back    int // tries that have ended
	errs    []error
}

// racer is a try that has ended.
type racer struct {
	call     *call
	err      error
	panicked any
	exited   bool
}

func (r *race) run(ctx context.Context) error {
	r.start(ctx)
	timer := time.NewTimer(r.hedge.after)
	defer timer.Stop()
	for {
		select {
		case t := <-r.ended:
			if done, err := r.finish(t); done {
				return err
			}
		case <-timer.C:
			if r.started < r.hedge.most && r.hedge.budget.withdraw() {
				r.start(ctx)
				timer.Reset(r.hedge.after)
			}
		case <-ctx.Done():
			r.abandon()
			if len(r.errs) == 0 {
				return ctx.Err()
			}
			return &HedgeError{Errs: append(r.errs, ctx.Err())}
		}
	}
}

// start begins a try. Its value is its own until it has won.
func (r *race) start(ctx context.Context) {
	r.started++
	t := racer{call: r.call.leaf.fork(), exited: true}
	go func() {
		defer func() {
			if t.exited {
				t.panicked = recover()
			}
			r.ended <- t
		}()
		t.err = t.call.next(ctx, r.layer)
		t.exited = false
	}()
}

// finish takes a try that has ended and reports whether it decides the race.
func (r *race) finish(t racer) (done bool, _ error) {
	r.back++
	switch {
	case t.panicked != nil:
		r.abandon()
		panic(t.panicked)
	case t.exited:
		t.err = errPanicked
	case t.err == nil:
		r.call.leaf.adopt(t.call.leaf)
		r.abandon()
		return true, nil
	}
	r.errs = append(r.errs, t.err)
	if r.back < r.started {
		t.call.leaf.reset()
		return false, nil
	}
	r.call.leaf.adopt(t.call.leaf)
	if len(r.errs) == 1 {
		return true, t.err
	}
	return true, &HedgeError{Errs: r.errs}
}

// abandon gives up the values of the tries that are still to end.
func (r *race) abandon() {
	missing := r.started - r.back
	if missing <= 0 {
		return
	}
	go func() {
		for range missing {
			(<-r.ended).call.leaf.reset()
		}
	}()
}
