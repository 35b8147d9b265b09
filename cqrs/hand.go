package cqrs

import (
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// A hand is a goroutine on which a lane calls the application's code, so that a handler that does not return, or that
// ends its goroutine, takes neither the lane nor the transaction with it.
type hand struct {
	in    chan func(*hand) error
	out   chan error // room for one: a hand that was given up must not wait for somebody who listens
	gone  atomic.Bool
	ended chan struct{} // closed when the goroutine has ended
}

func newHand() *hand {
	h := &hand{in: make(chan func(*hand) error), out: make(chan error, 1), ended: make(chan struct{})}
	go h.work()
	return h
}

func (h *hand) work() {
	defer close(h.ended)
	for f := range h.in {
		h.call(f)
	}
}

// errExited says that the hand is no more.
var errExited = fmt.Errorf("%w: it ended its goroutine", ErrPanic)

func (h *hand) call(f func(*hand) error) {
	err := errExited // unless f returns or panics, as runtime.Goexit does
	defer func() {
		if v := recover(); v != nil {
			err = panicked(v)
		}
		h.out <- err
	}()
	err = f(h)
}

func panicked(v any) error { return fmt.Errorf("%w: %v\n%s", ErrPanic, v, debug.Stack()) }

// contain turns a panic into an error, so that it undoes its own message only.
func contain(err *error) {
	if v := recover(); v != nil {
		*err = panicked(v)
	}
}

// errOvertime says that the processor's end does not wait any longer for a handler.
var errOvertime = errors.New("cqrs: the processor has stopped")

// call calls f on the lane's hand and waits for it: for limit and a moment more (not bounded if limit is 0 or less),
// and at the end of Run no longer than Grace. An f that is given up, by [ErrHung] or errOvertime, must not touch
// anything that the lane goes on with, and finds gone set when it returns at last.
func (l *lane) call(limit time.Duration, f func(*hand) error) (gaveUp bool, err error) {
	if l.hand == nil {
		l.hand = newHand()
	}
	h := l.hand
	h.in <- f
	var cut <-chan time.Time
	if limit > 0 {
		l.clock.Reset(withSlack(limit))
		defer l.clock.Stop()
		cut = l.clock.C
	}
	select {
	case err = <-h.out:
		if err == errExited { //nolint:errorlint // it is the hand's own word, not an error that f has passed on
			l.hand = nil
		}
		return false, err
	case <-cut:
		err = fmt.Errorf("%w within %v", ErrHung, limit)
	case <-l.r.overtime:
		err = errOvertime
	}
	h.gone.Store(true)
	close(h.in)
	l.gaveUp, l.hand = h, nil
	return true, err
}

// withSlack adds to a limit how much longer than that a handler may take to notice that it has passed.
func withSlack(limit time.Duration) time.Duration {
	slack := min(max(limit/4, 10*time.Millisecond), 5*time.Second)
	return limit + min(slack, math.MaxInt64-limit)
}

// dropHand ends the lane's hand, which is idle.
func (l *lane) dropHand() {
	if l.hand != nil {
		close(l.hand.in)
		<-l.hand.ended
		l.hand = nil
	}
}

// each calls f for 0 ≤ i < n, in one call of the lane's hand, and returns what each came to. One that panics, ends its
// goroutine or does not return fails alone; left is called for the latter.
func each[T any](l *lane, n int, f func(i int) (T, error), left func(i int)) ([]T, []error) {
	results, errs := make([]T, n), make([]error, n)
	for from := 0; from < n; {
		s, first := &series[T]{results: make([]T, n-from), errs: make([]error, n-from)}, from
		gaveUp, err := l.call(l.r.p.cfg.HandlerTimeout, func(*hand) error {
			return s.run(func(i int) (T, error) { return f(first + i) })
		})
		done := int(s.next.Swap(stopped))
		copy(results[from:], s.results[:done])
		copy(errs[from:], s.errs[:done])
		if from += done; from < n { // the one at from did not come back
			errs[from] = err
			if gaveUp {
				left(from)
			}
			from++
		}
	}
	return results, errs
}

// A series is what one call of each has come to. Its hand and its lane agree on how far by next.
type series[T any] struct {
	next    atomic.Int64
	results []T
	errs    []error
}

const stopped = -1 << 62

func (s *series[T]) run(f func(int) (T, error)) error {
	for i := range s.results {
		s.one(i, f)
		if !s.next.CompareAndSwap(int64(i), int64(i)+1) {
			return nil // it was given up
		}
	}
	return nil
}

func (s *series[T]) one(i int, f func(int) (T, error)) {
	defer contain(&s.errs[i])
	s.results[i], s.errs[i] = f(i)
}
