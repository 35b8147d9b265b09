package effect

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// errForgotten parks an intent that is older than the provider's memory of its key.
var errForgotten = errors.New("effect: the provider may have forgotten the key")

// work carries out one intent: the call outside of any transaction, then its result inside a shared one.
// run ends when no more calls may start; the call and the settlement go on.
func (r *Runner) work(run context.Context, l *lane, rec *Record) {
	ctx := cqrs.WithEnvelope(context.WithoutCancel(run), rec.Envelope)
	var s *settlement
	var err error
	if time.Now().After(rec.expires) {
		err = errForgotten
	} else {
		s, err = r.callOnce(ctx, run, l, rec)
	}
	pause, refused := r.refused(rec, err)
	r.called(l, rec, refused, pause)
	if refused {
		return
	}
	defer r.done(l)
	if err == nil {
		err = r.settle(ctx, run, rec, s)
		rec.Doubt = true
	}
	defer r.forget(rec)()
	if err != nil {
		r.postpone(ctx, run, rec, err)
	}
}

// errLeft puts a call in doubt that was left behind.
var errLeft = errors.New("effect: the call has not returned though its time is over")

// grace is how long a call may take to return once its time is over.
const grace = time.Second

// callOnce leaves a call behind that does not return: its goroutine goes on, and its place is free. As many may be left
// behind as are made at a time; more keep their places until one returns, or the run ends.
func (r *Runner) callOnce(ctx, run context.Context, l *lane, rec *Record) (*settlement, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	var s *settlement
	ended := start(func() (err error) {
		s, err = l.caller.call(ctx, rec)
		return r.tried(rec, err)
	})
	late := time.NewTimer(l.timeout + grace)
	defer late.Stop()
	select {
	case err := <-ended:
		return s, err
	case <-late.C:
	}
	release := func() {}
	select {
	case err := <-ended:
		return s, err
	case l.left <- struct{}{}:
		release = func() { <-l.left }
	case <-run.Done():
	}
	r.hung.Add(1)
	go func() {
		err := <-ended
		r.hung.Add(-1)
		release()
		r.cfg.Logger.Warn("a call that was left behind has returned", "effect", rec.Name, "id", rec.ID, "error", err)
	}()
	return nil, errLeft
}

// tried returns err after it has called its methods, which are the application's code, too.
func (r *Runner) tried(rec *Record, err error) error {
	if err != nil {
		_ = errors.Is(err, ErrLost)
		_, _ = r.refused(rec, err)
		_ = r.postponement(rec, err)
	}
	return err
}

// guard runs fn so that its panic or Goexit is an error and not the end of the runner.
func guard(fn func() error) error { return <-start(fn) }

// start does that without waiting for the end.
func start(fn func() error) <-chan error {
	ended := make(chan error, 1)
	go func() {
		err := fmt.Errorf("%w: it ended its goroutine", cqrs.ErrPanic)
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("%w: %v", cqrs.ErrPanic, v)
			}
			ended <- err
		}()
		err = fn()
	}()
	return ended
}

// refused tells whether a call was turned away before it left, for instance by an open breaker, and for how long: no
// longer than the intent is kept, for then it is parked.
func (r *Runner) refused(rec *Record, err error) (time.Duration, bool) {
	after, ok := retryAfter(err)
	if !ok || r.outcome(err) != NotExecuted {
		return 0, false
	}
	return max(min(after, rec.left()), r.cfg.MinBackoff), true
}

// outcome reads an error. What cannot be read is in doubt.
func (r *Runner) outcome(cause error) Outcome {
	o := InDoubt
	if err := guard(func() error { o = r.cfg.Outcome(cause); return nil }); err != nil {
		r.cfg.Logger.Error("Config.Outcome cannot read an error", "error", err)
	}
	return o
}

func retryAfter(err error) (time.Duration, bool) {
	var e interface{ RetryAfter() time.Duration }
	if err == nil || !errors.As(err, &e) {
		return 0, false
	}
	return e.RetryAfter(), true
}

// settleTries is how often a known result is applied at once; later it is asked for again.
const settleTries = 3

func (r *Runner) settle(ctx, run context.Context, rec *Record, s *settlement) error {
	var err error
	for i := range settleTries {
		if i > 0 && !sleep(run, r.backoff(i), nil) {
			break
		}
		err = guard(func() error { return r.tried(rec, r.settleOnce(ctx, rec, s)) })
		if err == nil {
			return nil
		}
		if errors.Is(err, ErrLost) {
			r.cfg.Logger.Info("an effect was settled by someone else", "effect", rec.Name, "id", rec.ID)
			return nil
		}
	}
	return fmt.Errorf("effect: settle %s: %w", rec.Name, err)
}

func (r *Runner) settleOnce(ctx context.Context, rec *Record, s *settlement) error {
	err := r.store.Settle(ctx, rec, func(ctx context.Context) error {
		result, err := s.apply(cqrs.WithEnvelope(ctx, rec.Envelope))
		if err != nil {
			return err
		}
		return r.answer(ctx, rec, result, s.no)
	})
	no := cqrs.AsRejection(err)
	if no == nil {
		return err
	}
	// What a rejection has written is undone; the rejection itself is the reply, and is committed.
	return r.store.Settle(ctx, rec, func(ctx context.Context) error { return r.answer(ctx, rec, nil, no) })
}

func (r *Runner) answer(ctx context.Context, rec *Record, result any, no *cqrs.Rejection) error {
	if no != nil {
		return r.reply(ctx, rec.Envelope, nil, no)
	}
	return r.reply(ctx, rec.Envelope, result, nil)
}

// postpone writes down when to go on. It tries until that is stored: meanwhile nobody else can.
func (r *Runner) postpone(ctx, run context.Context, rec *Record, cause error) {
	p := r.postponement(rec, cause)
	log := r.cfg.Logger.With("effect", rec.Name, "id", rec.ID, "attempts", p.Attempts, "error", cause)
	for i := 1; ; i++ {
		err := guard(func() error { return r.store.Postpone(ctx, rec, p) })
		switch {
		case err == nil && p.Park:
			log.Error("an effect is parked")
			return
		case err == nil:
			log.Warn("an effect is postponed", "delay", p.Delay)
			time.AfterFunc(p.Delay+slack, r.wake)
			return
		case errors.Is(err, ErrLost):
			return
		}
		log.Warn("an effect cannot be postponed", "store_error", err)
		if !sleep(run, min(r.backoff(i), r.cfg.Poll), nil) {
			return // it is given back with all the others
		}
	}
}

// left is the time after which an intent is parked.
func (rec *Record) left() time.Duration { return time.Until(rec.expires) + slack }

// slack makes up for the distance between a timer here and the database's clock.
const slack = 5 * time.Millisecond

func (r *Runner) postponement(rec *Record, cause error) Postponement {
	p := Postponement{
		Attempts: rec.Attempts, Doubt: rec.Doubt, Error: cause.Error(),
		Park: errors.Is(cause, errForgotten) || errors.Is(cause, errUnreadable),
	}
	if p.Park {
		return p
	}
	p.Attempts++
	p.Doubt = rec.Doubt || errors.Is(cause, errLeft) || r.outcome(cause) == InDoubt
	p.Park = r.cfg.Attempts > 0 && p.Attempts >= r.cfg.Attempts
	after, _ := retryAfter(cause)
	p.Delay = min(max(r.backoff(p.Attempts), after), rec.left())
	return p
}

// backoff doubles with each attempt and is spread over its upper half.
func (r *Runner) backoff(attempt int) time.Duration {
	d := r.cfg.MinBackoff
	for range attempt - 1 {
		if d >= r.cfg.MaxBackoff/2 {
			d = r.cfg.MaxBackoff
			break
		}
		d *= 2
	}
	return d/2 + rand.N(d/2+1)
}
