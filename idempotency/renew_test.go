package idempotency_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/idempotency"
)

// A lone is a store with one key, which notes when its lease is renewed.
type lone struct {
	idempotency.Store
	fail      func() error // what Renew says
	renewed   []time.Duration
	began     time.Time
	completed bool
	released  bool
}

func (l *lone) Begin(_ context.Context, r idempotency.ClaimRequest) (idempotency.Claim, error) {
	l.began = time.Now()
	return idempotency.Claim{Key: r.Key, State: idempotency.Acquired, Token: 1, Lease: r.Lease, Started: r.Started}, nil
}

func (l *lone) Renew(context.Context, idempotency.Claim) error {
	if l.fail != nil {
		return l.fail()
	}
	l.renewed = append(l.renewed, time.Since(l.began))
	return nil
}

func (l *lone) Complete(context.Context, idempotency.Claim, idempotency.Result) error {
	l.completed = true
	return nil
}

func (l *lone) Release(_ context.Context, c idempotency.Claim) error {
	l.released = !c.Started
	return nil
}

// The lease outlasts a slow handler, and a client that hangs up ends neither.
func TestLeaseIsRenewedEveryThirdOfIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &lone{}
		ctx, hangUp := context.WithCancel(t.Context())
		cfg := idempotency.MiddlewareConfig{Lease: 9 * time.Second}
		h := idempotency.Middleware(l, scopeOf, cfg)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			hangUp()
			<-time.After(20 * time.Second)
			if err := r.Context().Err(); err != nil {
				t.Error(err)
			}
			says(201, "slow")(w, r)
		}))
		if w := serve(h, request("k", "/", "{}").WithContext(ctx)); w.Code != 201 || !l.completed {
			t.Errorf("got %d, completed %v", w.Code, l.completed)
		}
		if n := len(l.renewed); n != 6 || l.renewed[0] != 3*time.Second {
			t.Errorf("renewed at %v", l.renewed)
		}
	})
}

// A holder that cannot renew stops before anybody else can have the key.
func TestLeaseThatCannotBeRenewedEndsTheContext(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		ends time.Duration
	}{
		"lost":       {idempotency.ErrLost, 3 * time.Second},
		"store down": {errBoom, 9 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := &lone{fail: func() error { return c.err }}
				began := time.Now()
				_, _, err := idempotency.Do(t.Context(), l, idempotency.Key{Scope: "s", Operation: "o", ID: "i"}, 1,
					func(ctx context.Context, _ *idempotency.Attempt) (int, error) {
						<-ctx.Done()
						return 0, context.Cause(ctx)
					}, idempotency.DoOptions{Lease: 9 * time.Second})
				if d := time.Since(began); d != c.ends || !errors.Is(err, idempotency.ErrLost) {
					t.Errorf("it ended after %v with %v", d, err)
				}
			})
		})
	}
}

// A step does not act unless it is noted that something is begun.
func TestRule30_StepIsNotedBeforeItActs(t *testing.T) {
	t.Parallel()
	l := &lone{fail: func() error { return errBoom }}
	_, _, err := idempotency.Do(t.Context(), l, idempotency.Key{Scope: "s", Operation: "o", ID: "i"}, 1,
		func(ctx context.Context, a *idempotency.Attempt) (int, error) {
			return idempotency.Step(ctx, a, "charge", func(context.Context, string) (int, error) {
				t.Error("it acted")
				return 0, nil
			})
		})
	wantErr(t, err, errBoom)
	if !l.released {
		t.Error("nothing was started, but the key is not free")
	}
}

func TestHandlerThatOverstaysLosesItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &lone{}
		began := time.Now()
		cfg := idempotency.MiddlewareConfig{Timeout: 5 * time.Second, Steps: true}
		h := idempotency.Middleware(l, scopeOf, cfg)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			w.WriteHeader(http.StatusGatewayTimeout)
		}))
		w := serve(h, request("k", "/", "{}"))
		if d := time.Since(began); w.Code != 504 || d != 5*time.Second || !l.released || l.completed {
			t.Errorf("%d after %v, released %v, completed %v", w.Code, d, l.released, l.completed)
		}
	})
}

// A duplicate waits for the first as long as it is told to, and no longer.
func TestDuplicateWaits(t *testing.T) {
	t.Parallel()
	for wait, answered := range map[time.Duration]bool{0: false, time.Second: false, 10 * time.Second: true} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			s := &busy{until: began.Add(3 * time.Second)}
			h := idempotency.Middleware(s, scopeOf, idempotency.MiddlewareConfig{Wait: wait})(says(500, "it ran"))
			w := serve(h, request("k", "/", "{}"))
			switch d := time.Since(began); {
			case answered && (w.Code != 201 || !replayed(w) || d < 3*time.Second || d > 4*time.Second):
				t.Errorf("got %d after %v", w.Code, d)
			case !answered && (w.Code != 409 || d != wait):
				t.Errorf("got %d after %v, want 409 after %v", w.Code, d, wait)
			}
		})
	}
}

// A busy store's key is in flight for some time, and then done.
type busy struct {
	idempotency.Store
	until time.Time
}

func (b *busy) Begin(_ context.Context, r idempotency.ClaimRequest) (idempotency.Claim, error) {
	if time.Now().Before(b.until) {
		return idempotency.Claim{Key: r.Key, State: idempotency.InFlight}, nil
	}
	return idempotency.Claim{Key: r.Key, State: idempotency.Replay, Result: idempotency.Result{Status: 201}}, nil
}
