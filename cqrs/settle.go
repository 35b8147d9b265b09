package cqrs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// judge gives a message its fate after its handlers ran.
func (b *batch) judge(ctx context.Context, it *item, err error) {
	no := AsRejection(err)
	switch {
	case err == nil, outcomeOnly(err):
		it.fate = handled
	case no != nil:
		b.refuse(ctx, it, no)
	default:
		b.fail(it, err)
	}
}

// refuse answers a rejected message; where nobody waits it becomes a dead letter. That does not hold up its queue:
// "no" is what became of it, and trying again would not change it.
func (b *batch) refuse(ctx context.Context, it *item, no *Rejection) {
	err := b.p.do(ctx, func(ctx context.Context) error {
		d, rt := it.d, it.route
		if rt.command == nil {
			return nil
		}
		ctx, cancel := b.scope(ctx, d, rt.limit)
		defer cancel()
		return b.guard(rt, []*item{it}, func(*hand) error { return b.reply(ctx, rt.command, d.Envelope, nil, no) })
	})
	switch {
	case errors.Is(err, errOvertime):
		b.leaveOut(it)
	case err != nil:
		b.fail(it, err)
	default:
		b.refused(it, no)
	}
}

// refused gives a message its fate whose rejection is answered.
func (b *batch) refused(it *item, no *Rejection) {
	it.err, it.refused, it.fate = no, true, dead
	waits := it.route.command != nil && b.p.replies(it.d.Envelope)
	if waits || b.p.cfg.DeadLetters == nil {
		it.fate = handled
	}
}

// longestAsked bounds what an error may ask for with RetryAfter: it may pass on what anybody has put into a header.
const longestAsked = time.Hour

// fail decides when a failed message is tried again, if ever.
func (b *batch) fail(it *item, err error) {
	it.err, it.refused = err, false
	it.fate = retried
	retry := b.p.cfg.Retry
	var later *LaterError
	var open interface{ RetryAfter() time.Duration }
	switch {
	case errors.As(err, &later):
		it.delay = max(later.Delay, retry.Min)
	case errors.As(err, &open):
		it.delay = max(min(open.RetryAfter(), longestAsked), retry.Min)
		it.route.pause(it.delay)
	case errors.Is(err, context.Canceled):
		it.delay = retry.Min
	case errors.Is(err, ErrNewerVersion):
		it.delay = retry.Max
	default:
		b.count(it, retry)
	}
	if it.queue != "" && (it.fate == retried || it.blocks) {
		b.blocked[it.queue] = true
	}
}

func (b *batch) count(it *item, retry Retry) {
	it.counts = true
	n := it.attempt() + 1
	if b.p.cfg.DeadLetters != nil && (n >= retry.Attempts || final(it.err)) {
		it.fate = dead
		it.blocks = it.queue != "" && !it.route.skipDead && b.p.cfg.Parking != nil
		return
	}
	it.delay = retry.delay(n)
}

// delay is the time until the next try after n failures: doubled each time, with a fifth of jitter.
func (r Retry) delay(n int) time.Duration {
	d := r.Max
	if n-1 < 32 {
		d = min(r.Max, r.Min<<(n-1))
	}
	if d <= 0 {
		d = r.Max
	}
	return d - time.Duration(rand.Int64N(int64(d)/5+1))
}

var errUndecided = errors.New("cqrs: no handler decided about the message")

// decisions are what a batch writes about its messages, a statement each.
type decisions struct {
	leave, append         []*Parked // leave: those that move to the queue of their key, or are done with it
	reschedule, consume   []*Parked
	letters               []*DeadLetter
	resolve, unclaim, end []string
}

// settle writes what was decided, in the transaction of the work.
func (b *batch) settle(ctx context.Context) error {
	var d decisions
	for _, it := range b.items {
		if it.fate == undecided { // never acknowledge what nobody decided about
			b.fail(it, errUndecided)
		}
		b.decide(&d, it)
		if it.marked {
			d.end = append(d.end, it.d.Envelope.ID)
		}
	}
	return b.write(ctx, &d)
}

func (b *batch) decide(d *decisions, it *item) {
	if it.parked != nil {
		it.parked.Lease = b.r.out.lease(it.parked)
	}
	if it.arrives && it.fate != unstarted {
		d.leave = append(d.leave, it.parked)
	}
	switch it.fate {
	case handled, skipped:
		if it.parked != nil && !it.arrives {
			d.consume = append(d.consume, it.parked)
		}
		if it.parked != nil && it.parked.Dead {
			d.resolve = append(d.resolve, it.d.Envelope.ID)
		}
	case behind, retried, scheduled:
		b.postpone(d, it)
	case dead:
		b.bury(d, it)
	case unstarted:
		if it.parked == nil {
			b.unclaim(d, it)
		}
	}
}

func (b *batch) unclaim(d *decisions, it *item) {
	if b.p.cfg.Inbox != nil && it.d.Envelope.ID != "" {
		d.unclaim = append(d.unclaim, it.d.Envelope.ID)
	}
}

// postpone parks a message, behind others or until its next try.
func (b *batch) postpone(d *decisions, it *item) {
	if it.parked == nil && b.p.cfg.Parking == nil { // held in memory
		b.unclaim(d, it)
		return
	}
	next := &Parked{Record: it.record(b.p.group)}
	if it.parked != nil {
		next.Dead = it.parked.Dead
	}
	switch {
	case it.fate == retried && !it.quiet:
		next.Delay = it.delay
		next.noteFailure(it)
	case it.fate != behind:
		next.Delay = it.delay
	}
	if it.parked != nil && !it.arrives {
		next.Lease = it.parked.Lease
		d.reschedule = append(d.reschedule, next)
	} else {
		d.append = append(d.append, next)
	}
}

// bury makes a dead letter, and has it hold up its queue if it must.
func (b *batch) bury(d *decisions, it *item) {
	rec := it.record(b.p.group)
	rec.noteFailure(it)
	d.letters = append(d.letters, &DeadLetter{
		Record: rec, Reason: textOfError(it.err), Blocking: it.blocks, DiedAt: time.Now(),
	})
	blocker := &Parked{Record: rec, Blocked: true, Dead: true}
	switch {
	case it.parked != nil && !it.arrives && it.blocks:
		blocker.Lease = it.parked.Lease
		d.reschedule = append(d.reschedule, blocker)
	case it.parked != nil && !it.arrives:
		d.consume = append(d.consume, it.parked)
	case it.blocks:
		d.append = append(d.append, blocker)
	}
}

// What is kept of a message's failures: the last ones, and so many bytes of each.
const (
	maxFailures = 10
	maxFailure  = 4_000
)

func (r *Record) noteFailure(it *item) {
	if it.counts {
		r.Attempt++
	}
	text := textOfError(it.err)
	if len(text) > maxFailure {
		text = strings.ToValidUTF8(text[:maxFailure], "")
	}
	all := append(slices.Clone(r.Failures), Failure{At: time.Now(), Error: text})
	r.Failures = all[max(0, len(all)-maxFailures):]
}

func (b *batch) write(ctx context.Context, d *decisions) error {
	c := &b.p.cfg
	write := func(what string, n int, f func() error) error {
		if n == 0 {
			return nil
		}
		if err := f(); err != nil {
			return fmt.Errorf("cqrs: %s: %w", what, err)
		}
		return nil
	}
	steps := []func() error{
		func() error {
			return write("end waiting", len(d.leave), func() error { return c.Parking.Consume(ctx, d.leave) })
		},
		func() error {
			return write("park", len(d.append), func() error { return c.Parking.Append(ctx, d.append) })
		},
		func() error {
			return write("park again", len(d.reschedule), func() error { return c.Parking.Reschedule(ctx, d.reschedule) })
		},
		func() error {
			return write("end parking", len(d.consume), func() error { return c.Parking.Consume(ctx, d.consume) })
		},
		func() error {
			return write("dead letters", len(d.letters), func() error { return c.DeadLetters.Put(ctx, d.letters) })
		},
		func() error {
			if c.DeadLetters == nil {
				return nil
			}
			return write("resolve dead letters", len(d.resolve), func() error {
				return c.DeadLetters.Resolve(ctx, b.p.group, d.resolve)
			})
		},
		func() error {
			return write("unclaim", len(d.unclaim), func() error { return c.Inbox.Unclaim(ctx, b.p.group, d.unclaim) })
		},
		func() error {
			return write("end", len(d.end), func() error { return c.Crashes.End(ctx, b.p.group, lockNames(d.end)) })
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// finish acts on what was committed: acknowledgements, memory, counters, logs.
func (b *batch) finish() {
	var keep []*item
	for _, it := range b.items {
		it.marked = false
		if it.fate == unstarted {
			if b.r.isOver() {
				b.l.quits = true
				it.release()
			}
			continue
		}
		b.p.stats.count(it)
		b.report(it)
		if it.fate.postponed() && it.parked == nil && b.p.cfg.Parking == nil {
			if it.counts {
				it.tries++
				it.d.Envelope.Attempt = it.tries
			}
			if it.verdict != nil && !final(it.verdict) {
				it.verdict, it.ready = nil, false
			}
			it.later, it.timed = 0, it.fate == scheduled
			keep = append(keep, it)
			continue
		}
		switch it.fate {
		case retried, scheduled:
			b.r.wake(it.delay)
		case behind:
			b.r.wake(b.p.cfg.Retry.Min)
		}
		it.settle(true)
	}
	if len(keep) > 0 {
		b.l.held.hold(keep)
	}
}

func (b *batch) report(it *item) {
	if it.err == nil || it.fate == behind || it.quiet {
		return
	}
	log := b.p.log.With("id", it.d.Envelope.ID, "type", it.d.Envelope.Type, "topic", it.d.Topic)
	switch {
	case it.fate == dead:
		log.Error("message is a dead letter", "error", it.err, "attempts", it.attempt()+1)
	case it.fate == retried && it.counts:
		log.Warn("message failed", "error", it.err, "attempt", it.attempt()+1, "retry_in", it.delay)
	case it.fate == handled && it.refused && it.d.Envelope.ReplyTo == "":
		log.Warn("message refused, and nobody waits for the answer", "error", it.err)
	}
}
