package idempotency

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Middleware is for handlers whose effects lie outside the database: it holds a lease on the key, renewed while the
// handler runs, and stores the answer by compare-and-set on the fencing token. The handler's context outlives a
// client that hangs up; it ends after [MiddlewareConfig.Timeout], or with [ErrLost] when the lease is lost.
// The answer is kept back until it is stored, unless the handler streams or exceeds [MiddlewareConfig.MaxResponse].
//
// Answers 2xx to 4xx are stored, except 401, 403, 408, 425 and 429, which say that nothing was done and free the key.
// After a 5xx, a panic or a crash the key is free only if nothing was started; else its outcome is unknown, and
// [MiddlewareConfig.OnUnknown] says what a retry does. See [MiddlewareConfig.Steps].
// It panics if scope is nil or cfg is not valid.
func Middleware(s Store, scope Scope, cfg MiddlewareConfig) func(http.Handler) http.Handler {
	return middleware(scope, cfg, func(e *endpoint, w http.ResponseWriter, x *exchange) error {
		began := time.Now()
		c, err := s.Begin(x.r.Context(), ClaimRequest{
			Key: x.key, Fingerprint: x.mark, Lease: e.cfg.Lease,
			Started: !e.cfg.Steps, Takeover: e.cfg.OnUnknown != Refuse,
		})
		if err == nil {
			err = c.State.err()
		}
		switch {
		case err != nil:
			return err
		case c.State == Replay && !c.Result.replayable(true):
			return ErrNotReplayable
		case c.State == Replay:
			replay(w, c.Result)
			return nil
		}
		return e.underLease(w, x, &Attempt{store: s, claim: c, began: began})
	})
}

// underLease runs the handler, and completes or releases the key.
func (e *endpoint) underLease(w http.ResponseWriter, x *exchange, a *Attempt) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.r.Context()), e.cfg.Timeout)
	defer cancel()
	held, stop := a.hold(ctx)
	settled := false
	defer func() {
		stop()
		if !settled { // a panic or Goexit
			e.release(ctx, a)
		}
	}()
	rec := newRecorder(w, e.cfg.MaxResponse)
	result, known, err := e.reconcile(held, x, a)
	if err != nil {
		return err
	}
	if !known {
		e.next.ServeHTTP(rec, x.request(held))
		result = rec.result()
	}
	settled = true
	if known || storable(result.Status) {
		err = e.complete(ctx, a, result)
	} else {
		e.giveUp(ctx, a, result.Status)
	}
	switch {
	case err != nil && !rec.streamed:
		return err
	case known:
		replay(w, result)
	case !rec.streamed:
		_ = rec.send(w) // the client may be gone
	}
	return nil
}

// reconcile asks what became of a lost attempt; known is false when the handler is to run.
func (e *endpoint) reconcile(ctx context.Context, x *exchange, a *Attempt) (result Result, known bool, err error) {
	if !a.Recovered() || e.cfg.OnUnknown != Reconcile {
		return Result{}, false, nil
	}
	result, err = e.cfg.Reconcile(ctx, x.request(ctx), a)
	switch {
	case errors.Is(err, ErrNotExecuted):
		return Result{}, false, nil
	case err != nil:
		return Result{}, false, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	result.Header = storedHeader(result.Header)
	if result.Status == 0 {
		result.Status = http.StatusOK
	}
	return result, true, nil
}

// complete stores the answer. If that fails, what the handler did is done, but a retry will not get this answer.
func (e *endpoint) complete(ctx context.Context, a *Attempt, r Result) error {
	err := a.complete(ctx, r)
	if err == nil {
		return nil
	}
	e.cfg.Logger.Error("idempotent answer not stored", "error", err, "operation", a.Key().Operation)
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

// giveUp releases the key of an answer that is not stored. A handler that announces no steps says by a refusal that
// it did nothing.
func (e *endpoint) giveUp(ctx context.Context, a *Attempt, status int) {
	if status < http.StatusInternalServerError && !e.cfg.Steps && !a.Recovered() {
		a.nothingStarted()
	}
	e.release(ctx, a)
}

func (e *endpoint) release(ctx context.Context, a *Attempt) {
	if err := a.release(ctx); err != nil {
		e.cfg.Logger.Error("idempotency key not released", "error", err, "operation", a.Key().Operation)
	}
}
