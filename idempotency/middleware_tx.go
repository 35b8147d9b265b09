package idempotency

import (
	"context"
	"errors"
	"net/http"
)

// errRefused undoes what a handler wrote whose answer is a refusal.
var errRefused = errors.New("idempotency: the handler refused")

// MiddlewareTx runs the handler inside a transaction (uow.DB finds it in the request's context): the key, what the
// handler writes and publishes, and the stored answer commit together, before the first byte is sent. It must not do
// I/O elsewhere. Other requests may share the transaction, so the handler may run more than once for a request and
// must be safe to run again from the start; a store whose unit of work has MaxShare 1 gives each request a
// transaction of its own, which only a deadlock or a serialization failure runs again.
//
// An answer of 400 and above undoes what the handler wrote. 2xx to 4xx are stored, except 401, 403, 408, 425 and 429;
// for those, for 5xx and when the handler panics, the key is free again.
// It panics if scope is nil or cfg is not valid.
func MiddlewareTx(s *GormStore, scope Scope, cfg MiddlewareConfig) func(http.Handler) http.Handler {
	return middleware(scope, cfg, func(e *endpoint, w http.ResponseWriter, x *exchange) error {
		in := &intent{store: s, req: ClaimRequest{Key: x.key, Fingerprint: x.mark}, http: true}
		var rec *recorder
		var stored *Result
		err := settled(x.r.Context(), func() error {
			return s.work.Do(in.prepare(x.r.Context()), func(ctx context.Context) (err error) {
				rec = newRecorder(nil, e.cfg.MaxResponse)
				if stored, err = in.resolve(ctx); err != nil || stored != nil {
					return err
				}
				return e.inTransaction(ctx, in, x, rec)
			})
		})
		switch {
		case errors.Is(err, errRefused), err == nil && stored == nil:
			_ = rec.send(w) // the client may be gone
			return nil
		case err == nil:
			replay(w, *stored)
		}
		return err
	})
}

// inTransaction runs the handler as an inner part, which is undone alone when it refuses; then only its answer stays.
func (e *endpoint) inTransaction(ctx context.Context, in *intent, x *exchange, rec *recorder) error {
	err := in.store.work.Do(ctx, func(ctx context.Context) error {
		e.next.ServeHTTP(rec, x.request(ctx))
		if rec.code() >= http.StatusBadRequest {
			return errRefused
		}
		return nil
	})
	if errors.Is(err, errRefused) && storable(rec.code()) {
		err = nil
	}
	if err != nil {
		return err
	}
	return in.answer(ctx, rec.result())
}
