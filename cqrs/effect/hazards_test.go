package effect_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/effect"
)

// bent is a memory whose methods can be bent.
type bent struct {
	*memory
	postpone func(n int, do func() error) error
	beat     func(ctx context.Context, n int, do func() ([]*effect.Record, error)) ([]*effect.Record, error)
	add      func(committed func()) func()
	np, nb   atomic.Int32
}

func (b *bent) Postpone(ctx context.Context, rec *effect.Record, p effect.Postponement) error {
	do := func() error { return b.memory.Postpone(ctx, rec, p) }
	if b.postpone == nil {
		return do()
	}
	return b.postpone(int(b.np.Add(1)), do)
}

func (b *bent) Beat(ctx context.Context, owner string, lease time.Duration) ([]*effect.Record, error) {
	do := func() ([]*effect.Record, error) { return b.memory.Beat(ctx, owner, lease) }
	if b.beat == nil {
		return do()
	}
	return b.beat(ctx, int(b.nb.Add(1)), do)
}

func (b *bent) Add(ctx context.Context, rec *effect.Record, committed func()) error {
	if b.add != nil {
		committed = b.add(committed)
	}
	return b.memory.Add(ctx, rec, committed)
}

// losesAnswer commits the first Postpone and loses the answer, after a while.
func losesAnswer(n int, do func() error) error {
	err := do()
	if n == 1 && err == nil {
		time.Sleep(2 * time.Second)
		err = errUnsure
	}
	return err
}

// awayAtFirst is the effect with a provider that the first call does not reach, and that can be asked.
func (w *world) awayAtFirst() effect.Effect[pay, receipt, charge, approval] {
	e := w.effect()
	call, n := e.Call, new(atomic.Int32)
	e.Call = func(ctx context.Context, key string, c charge) (approval, error) {
		if n.Add(1) == 1 {
			return approval{}, cqrs.ErrNotExecuted
		}
		return call(ctx, key, c)
	}
	e.Ask = w.provider.ask
	return e
}

func (w *world) startOn(s effect.Store, cfg effect.Config, e effect.Effect[pay, receipt, charge, approval]) (handler, func()) {
	if testing.Verbose() {
		cfg.Logger = slog.Default()
	}
	r := effect.NewWith(w.reply, s, cfg)
	h := effect.Handler(r, e)
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	synctest.Wait()
	return h, func() { cancel(); <-done }
}

// The first Postpone is committed and its answer lost (uow.ErrOutcomeUnknown), which is known only 2 s later. By then the
// same owner has claimed the intent again and calls: the second try of the Postpone takes it away from that call.
func TestRule28_APostponementWithoutAnAnswerDoesNotUndoTheNextClaim(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := &bent{memory: w.store, postpone: losesAnswer}
		w.provider.takes = 5 * time.Second
		e := w.awayAtFirst()
		h, stop := w.startOn(s, effect.Config{}, e)
		defer stop()
		_, stop2 := w.startOn(nobeat{w.store}, effect.Config{Poll: time.Millisecond}, e)
		w.must(w.send(h, "1", 5))
		defer stop2()
		time.Sleep(time.Minute)
		w.wantCalls("call key-1")
		if w.provider.most > 1 {
			t.Errorf("%d calls of one intent at once", w.provider.most)
		}
		w.wantState(0, 0)
	})
}

// nobeat is a second runner that claims only from 2.2 s on, so that the first gets the first claim.
type nobeat struct{ *memory }

func (s nobeat) Claim(ctx context.Context, owner string, names []string, limit int) ([]*effect.Record, error) {
	s.mu.Lock()
	late := time.Now().Second()%60 >= 2 // synctest starts at :00
	s.mu.Unlock()
	if !late {
		return nil, nil
	}
	return s.memory.Claim(ctx, owner, names, limit)
}

// The same with one runner: the result of the second call is refused (ErrLost) and the provider called a third time,
// although the effect can ask.
func TestRule28_ACallInDoubtIsAskedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := &bent{memory: w.store, postpone: losesAnswer}
		w.provider.takes = 1102 * time.Millisecond
		e := w.awayAtFirst()
		h, stop := w.startOn(s, effect.Config{}, e)
		defer stop()
		w.must(w.send(h, "1", 5))
		time.Sleep(time.Minute)
		w.wantCalls("call key-1")
		w.wantState(0, 0)
	})
}

// A Postpone that takes longer than a lease (a lock, a queue) is taken for astray since 523f879: the runner gives the
// intent back a second time, claims it, and the first Postpone then takes it away from the call under way.
func TestRule09_ASlowPostponementIsNotAstray(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := &bent{memory: w.store, postpone: func(n int, do func() error) error {
			if n == 1 {
				time.Sleep(41 * time.Second)
			}
			return do()
		}}
		w.provider.takes = 5 * time.Second
		e := w.awayAtFirst()
		h, stop := w.startOn(s, effect.Config{}, e)
		defer stop()
		w.must(w.send(h, "1", 5))
		time.Sleep(40500 * time.Millisecond)
		_, stop2 := w.startOn(w.store, effect.Config{Poll: time.Millisecond}, e)
		defer stop2()
		time.Sleep(2 * time.Minute)
		if w.provider.most > 1 {
			t.Errorf("%d calls of one intent at once", w.provider.most)
		}
		if strings.Count(w.provider.log(), "call") > 1 {
			t.Errorf("calls %q", w.provider.log())
		}
		w.wantState(0, 0)
	})
}

// gormstore forgets an owner an hour after its lease. Its next Beat is then taken for a first one and succeeds, and the
// runner goes on with what it has in memory, which others have settled long ago.
func TestRule34_ARunnerThatWasAwayForLongCallsNothingOfThatTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.takes = 9 * time.Second
		s := &bent{memory: w.store}
		var away atomic.Bool
		s.beat = func(_ context.Context, _ int, do func() ([]*effect.Record, error)) ([]*effect.Record, error) {
			if away.Load() {
				return nil, errors.New("partitioned")
			}
			return do()
		}
		h, stop := w.startOn(s, effect.Config{Concurrency: 1, Poll: time.Hour * 2}, w.effect())
		defer stop()
		for i := range 10 {
			w.must(w.send(h, fmt.Sprint(i), 5))
		}
		away.Store(true)
		time.Sleep(time.Minute)
		_, stop2 := w.startOn(w.store, effect.Config{}, w.effect())
		defer stop2()
		time.Sleep(2 * time.Hour)
		w.wantState(0, 0)
		w.store.mu.Lock()
		for o, until := range w.store.owners { // what gormstore's forget does whenever any runner starts
			if time.Since(until) > time.Hour {
				delete(w.store.owners, o)
			}
		}
		w.store.mu.Unlock()
		before := strings.Count(w.provider.log(), "call")
		away.Store(false)
		time.Sleep(5 * time.Hour)
		if n := strings.Count(w.provider.log(), "call") - before; n > 0 {
			t.Errorf("%d settled intents were called again, without asking", n)
		}
	})
}

// When a lane is full at the time of the look, nobody looks again as soon as there is room.
func TestRoomInAFullLaneIsFilledAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.takes = 10 * time.Millisecond
		idle := effect.Handler(effect.NewWith(w.reply, w.store, effect.Config{}), w.effect())
		for i := range 80 {
			w.must(w.send(idle, fmt.Sprint(i), 5))
		}
		_, stop := w.start(effect.Config{Concurrency: 4, Backlog: 4, Poll: 10 * time.Second}, w.effect())
		defer stop()
		time.Sleep(5 * time.Second) // 0.2 s of work
		w.wantState(0, 0)
	})
}

// One Beat that is never answered stops the runner for ever.
func TestRule34_ABeatThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := &bent{memory: w.store}
		s.beat = func(ctx context.Context, n int, do func() ([]*effect.Record, error)) ([]*effect.Record, error) {
			if n == 2 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return do()
		}
		h, stop := w.startOn(s, effect.Config{}, w.effect())
		defer stop()
		time.Sleep(time.Hour)
		w.must(w.send(h, "1", 5))
		time.Sleep(time.Hour)
		w.wantCalls("call key-1")
		w.wantState(0, 0)
	})
}

// A hook that runs later than a lease after its commit starts what was given back as astray and settled since.
func TestRule09_ALateHookStartsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := &bent{memory: w.store, add: func(committed func()) func() {
			return func() { time.Sleep(time.Minute); committed() }
		}}
		e := w.effect()
		e.Ask = w.provider.ask
		h, stop := w.startOn(s, effect.Config{}, e)
		defer stop()
		w.must(w.send(h, "1", 5))
		time.Sleep(time.Minute)
		w.wantCalls("ask key-1, call key-1")
		w.wantState(0, 0)
	})
}

// Calls from before the pause end the probing before it has begun.
func TestRule12_OneCallProbesAfterThePause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var calls, probes int
		start := time.Now()
		e := w.effect()
		e.Call = func(ctx context.Context, key string, c charge) (approval, error) {
			w.provider.mu.Lock()
			calls++
			n := calls
			if time.Since(start) >= 10*time.Second && time.Since(start) < 11*time.Second {
				probes++
			}
			w.provider.mu.Unlock()
			if n == 2 { // under way when the breaker opens
				<-ctx.Done()
				return approval{}, ctx.Err()
			}
			time.Sleep(time.Millisecond)
			return approval{}, refusal{10 * time.Second}
		}
		e.Timeout = 5 * time.Second
		h, stop := w.start(effect.Config{Concurrency: 64}, e)
		defer stop()
		for i := range 200 {
			w.must(w.send(h, fmt.Sprint(i), 5))
		}
		time.Sleep(12 * time.Second)
		w.provider.mu.Lock()
		defer w.provider.mu.Unlock()
		if probes > 1 {
			t.Errorf("%d probes at once", probes)
		}
	})
}

// away is an error with a RetryAfter beyond all measure.
type away struct{ error }

func (away) RetryAfter() time.Duration { return 10 * 365 * 24 * time.Hour }
func (a away) Unwrap() error           { return a.error }

// However long a provider wants to be left alone, an intent is parked when its Keep is over, and the next one is tried.
func TestNoRetryAfterOutlastsKeep(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{cqrs.ErrNotExecuted, errors.New("in doubt")} {
		t.Run(cause.Error(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.provider.before = func(n int, _ string) error {
					if n == 1 {
						return away{cause}
					}
					return nil
				}
				h, stop := w.start(effect.Config{}, w.effect())
				defer stop()
				w.must(w.send(h, "1", 5))
				time.Sleep(24*time.Hour + time.Minute)
				w.wantState(0, 1)
				w.must(w.send(h, "2", 5))
				w.wantReply("2", "{ref-key-2} <nil>")
			})
		})
	}
}

type nilErr struct{ msg string }

func (e *nilErr) Error() string { return e.msg }

// Kills the test binary: cause.Error() runs outside of guard.
func TestAnErrorThatPanicsIsAnErrorInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := w.effect()
		call, n := e.Call, new(atomic.Int32)
		e.Call = func(ctx context.Context, key string, c charge) (approval, error) {
			if n.Add(1) == 1 {
				var err *nilErr
				return approval{}, err
			}
			return call(ctx, key, c)
		}
		h, stop := w.start(effect.Config{}, e)
		defer stop()
		w.must(w.send(h, "1", 5))
		time.Sleep(5 * time.Second)
		w.wantReply("1", "{ref-key-1} <nil>")
	})
}
