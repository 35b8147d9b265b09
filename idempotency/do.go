package idempotency

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/surge-go/surge/outbox/uow"
)

// Info says how a result came about.
type Info struct {
	Replayed  bool // an earlier call produced it
	Recovered bool // an earlier attempt was lost, and this one took over
}

// DoOptions are the extras of one [Do]; the zero value works.
type DoOptions struct {
	// Lease is how long the claim lasts without renewal. It is renewed every third of it. 0 means [DefaultLease].
	Lease time.Duration
	// OnUnknown says what to do when an earlier attempt was lost after its first step had begun. The default is
	// [Reexecute]: steps that are done are skipped. With [Refuse], Do returns [ErrUnknown]. [Reconcile] is for
	// [Middleware] alone.
	OnUnknown UnknownPolicy
}

// Do calls fn once for all calls with the same key, and returns its result to each. It is for effects outside the
// database: fn wraps each in a [Step]. in is what is asked for; another value under the same key is an
// [ErrMismatch]. The result must survive JSON, and is returned as JSON keeps it.
//
// Guarantee: fn does not run twice at a time under a key as long as the lease can be renewed, which it is until fn
// returns, and not again once its result is stored. If the process dies, or the result cannot be stored, the next call
// after the lease runs fn again; steps that are done are not repeated, and the one that was under way is repeated under
// its derived key. A result that cannot be encoded is an error and the key is done: later calls get [ErrNotReplayable].
//
// Errors: fn's own, after which the next call runs fn again; [ErrInFlight]; [ErrMismatch]; [ErrUnknown]; [ErrLost]
// when another attempt took over, which cancels fn's context; [ErrInTransaction]; the store's. A panic of fn passes
// through; the key is released as after an error.
func Do[T any](
	ctx context.Context, s Store, k Key, in any, fn func(ctx context.Context, a *Attempt) (T, error), o ...DoOptions,
) (result T, info Info, err error) {
	r := ClaimRequest{Key: k, Takeover: true}
	if len(o) > 0 {
		r.Lease, r.Takeover = o[0].Lease, o[0].OnUnknown != Refuse
	}
	if uow.In(ctx) {
		return result, info, ErrInTransaction
	}
	if r.Fingerprint, err = FingerprintOf(in); err != nil {
		return result, info, err
	}
	began := time.Now()
	c, err := s.Begin(ctx, r.withDefaults())
	if err == nil {
		err = c.State.err()
	}
	switch {
	case err != nil:
		return result, info, err
	case c.State == Replay && !c.Result.replayable(false):
		return result, info, ErrNotReplayable
	case c.State == Replay:
		return result, Info{Replayed: true}, decode(c.Result.Body, &result)
	}
	info.Recovered = c.Recovered
	result, err = hold(ctx, &Attempt{store: s, claim: c, began: began}, fn)
	return result, info, err
}

// hold runs fn under the lease of a, and completes or releases its key.
func hold[T any](
	ctx context.Context, a *Attempt, fn func(context.Context, *Attempt) (T, error),
) (result T, err error) {
	held, stop := a.hold(ctx)
	done := false
	defer func() {
		stop()
		if !done { // an error, a panic or Goexit
			err = errors.Join(err, a.release(ctx))
		}
	}()
	if result, err = fn(held, a); err != nil {
		return result, err
	}
	done = true // what follows may fail, but must not make the key free
	body, err := json.Marshal(result)
	if err != nil {
		err = fmt.Errorf("idempotency: encode result: %w", err)
		return result, errors.Join(err, a.complete(ctx, Result{Lost: true}))
	}
	if err := a.complete(ctx, Result{Body: body}); err != nil {
		return result, err
	}
	return result, decode(body, &result)
}

// DoTx calls fn once for all calls with the same key, in a transaction, and returns its result to each: the key, what
// fn writes through uow.DB and publishes, and the result commit together. Inside a transaction it joins; then a key
// must not occur twice in it. Otherwise concurrent calls share transactions, so fn may run more than once and must be
// safe to run again from the start, like every function given to uow.
// in and the result are as in [Do].
//
// Errors: fn's own, after which everything is undone and the key is free; [ErrInFlight]; [ErrMismatch];
// [ErrUnknown]; those of uow. When the answer to COMMIT was lost, the key is read to find out.
func DoTx[T any](
	ctx context.Context, s *GormStore, k Key, in any, fn func(ctx context.Context) (T, error),
) (result T, info Info, err error) {
	if err := k.Validate(); err != nil {
		return result, info, err
	}
	mark, err := FingerprintOf(in)
	if err != nil {
		return result, info, err
	}
	wish := &intent{store: s, req: ClaimRequest{Key: k, Fingerprint: mark}}
	err = settled(ctx, func() error {
		return s.work.Do(wish.prepare(ctx), func(ctx context.Context) error {
			var zero T
			result, info = zero, Info{}
			return wish.doTx(ctx, &result, &info, func(ctx context.Context) (err error) {
				result, err = fn(ctx)
				return err
			})
		})
	})
	return result, info, err
}

func (in *intent) doTx(ctx context.Context, result any, info *Info, run func(context.Context) error) error {
	stored, err := in.resolve(ctx)
	if err != nil {
		return err
	}
	if stored != nil {
		info.Replayed = true
		return decode(stored.Body, result)
	}
	if err := run(ctx); err != nil {
		return err
	}
	body, err := json.Marshal(result)
	if err != nil {
		return fmt.Errorf("idempotency: encode result: %w", err)
	}
	if err := decode(body, result); err != nil {
		return err
	}
	return in.answer(ctx, Result{Body: body})
}

// settled repeats do while the answer to its COMMIT is lost: the key was in that transaction, so a repetition finds
// the result if it was committed, and runs if it was not.
func settled(ctx context.Context, do func() error) error {
	for try := 0; ; try++ {
		err := do()
		if try == 3 || !errors.Is(err, uow.ErrOutcomeUnknown) || uow.In(ctx) || ctx.Err() != nil {
			return err
		}
	}
}
