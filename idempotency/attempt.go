package idempotency

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/surge-go/surge/outbox/uow"
)

// storeTimeout bounds what is said to the store once the work is done and the caller's context no longer counts.
const storeTimeout = 10 * time.Second

// An Attempt is one run under a lease. Its methods are safe for concurrent use.
type Attempt struct {
	store Store
	began time.Time // before the claim was asked for

	mu    sync.Mutex // guards claim, and is held while points are stored
	claim Claim
}

type attemptKey struct{}

// AttemptFrom returns the attempt that a handler behind [Middleware], or a function in [Do], is run by; else nil.
func AttemptFrom(ctx context.Context) *Attempt {
	a, _ := ctx.Value(attemptKey{}).(*Attempt)
	return a
}

// Key returns the key.
func (a *Attempt) Key() Key { return a.claim.Key }

// Token returns the fencing token: it grows with each attempt that takes the key over. Where something is changed
// that can compare, pass it on and let an older token be refused.
func (a *Attempt) Token() int64 { return a.claim.Token }

// Recovered reports whether an earlier attempt was lost after it had begun to act.
func (a *Attempt) Recovered() bool { return a.claim.Recovered }

// Start notes durably that something outside the database is about to happen. From then on the key is never free
// again: if this attempt is lost, its outcome is unknown. [Step] calls it. Inside a transaction, which may be rolled
// back and may run again, it returns [ErrInTransaction].
func (a *Attempt) Start(ctx context.Context) error {
	if uow.In(ctx) {
		return ErrInTransaction
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.claim.Started {
		return nil
	}
	c := a.claim
	c.Started, c.Points = true, nil
	if err := a.store.Renew(ctx, c); err != nil {
		return err
	}
	a.claim.Started = true
	return nil
}

func (a *Attempt) point(name string) (json.RawMessage, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p, ok := a.claim.Points[name]
	return p, ok
}

// record stores the result of a step.
func (a *Attempt) record(ctx context.Context, name string, result json.RawMessage) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	points := maps.Clone(a.claim.Points)
	if points == nil {
		points = map[string]json.RawMessage{}
	}
	points[name] = result
	c := a.claim
	c.Points = points
	if err := a.store.Renew(ctx, c); err != nil {
		return err
	}
	a.claim.Points = points
	return nil
}

// current returns the claim without its points, which Renew would store again.
func (a *Attempt) current() Claim {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.claim
	c.Points = nil
	return c
}

// hold returns a context in which the attempt runs, and keeps its claim alive until stop is called, also when ctx has
// ended: what does not look at its context still acts. When the claim is lost, or cannot be renewed for as long as it
// lasts, the context ends with [ErrLost].
func (a *Attempt) hold(ctx context.Context) (held context.Context, stop func()) {
	held, lose := context.WithCancelCause(context.WithValue(ctx, attemptKey{}, a))
	renewing, end := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() {
		defer end()
		a.renew(renewing, func() { lose(ErrLost); end() })
	})
	return held, func() {
		end()
		wg.Wait()
		lose(context.Canceled)
	}
}

// renew renews the claim until ctx ends. It counts the lease from before it was asked for, and the clock that ends it
// does not wait for a store that does not answer.
func (a *Attempt) renew(ctx context.Context, lose func()) {
	lease := a.claim.Lease
	over := time.AfterFunc(time.Until(a.began.Add(lease)), lose)
	defer over.Stop()
	tick := time.NewTicker(max(lease/3, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		began := time.Now()
		switch err := a.store.Renew(ctx, a.current()); {
		case err == nil:
			over.Reset(time.Until(began.Add(lease)))
		case errors.Is(err, ErrLost):
			lose()
		}
	}
}

// complete stores the answer, whatever became of the caller.
func (a *Attempt) complete(ctx context.Context, r Result) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	return a.store.Complete(ctx, a.current(), r)
}

// release gives the key up: it is free unless something was started.
func (a *Attempt) release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	return a.store.Release(ctx, a.current())
}

// Step is a recovery point: it calls fn at most once successfully under the key of a. When the step was done by an
// earlier attempt, its result is returned from the store. key is the same for every attempt, and different for every
// name: give it to the other service as its idempotency key. It closes the gap that no store can: an attempt that is
// lost after fn has acted and before its result is stored calls fn again, with the same key.
//
// name must be unique within the operation and must not change between releases. The result must survive JSON, and
// is returned as JSON keeps it. Once a step has begun, a failure makes the key's outcome unknown.
// The store's errors are returned as they are; [ErrLost] means that another attempt goes on from here. Inside a
// transaction it returns [ErrInTransaction], before fn is called.
func Step[T any](
	ctx context.Context, a *Attempt, name string, fn func(ctx context.Context, key string) (T, error),
) (result T, err error) {
	if a == nil {
		return result, fmt.Errorf("idempotency: step %s: no attempt; is the handler behind Middleware?", name)
	}
	if stored, ok := a.point(name); ok {
		return result, decode(stored, &result)
	}
	if err := a.Start(ctx); err != nil {
		return result, fmt.Errorf("idempotency: step %s: %w", name, err)
	}
	result, err = fn(ctx, a.claim.Key.Derive(name))
	if err != nil {
		return result, err
	}
	stored, err := json.Marshal(result)
	if err != nil {
		return result, fmt.Errorf("idempotency: step %s: %w", name, err)
	}
	save, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := a.record(save, name, stored); err != nil {
		return result, fmt.Errorf("idempotency: step %s: %w", name, err)
	}
	return result, decode(stored, &result)
}

// nothingStarted takes back that the handler as a whole counts as an effect.
func (a *Attempt) nothingStarted() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.claim.Started = false
}
