package idempotency_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/surge-go/surge/idempotency"
)

// expire lets the lease of every key run out, as a crash and some time would.
func (b *bench) expire(t testing.TB) {
	t.Helper()
	must(t, b.db.Exec("UPDATE idempotency_keys SET lease_until = 1 WHERE state IN (0, 2)").Error)
}

// A handler whose behavior hangs on the attempt's number.
type script struct {
	calls atomic.Int64
	act   []http.HandlerFunc
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := int(s.calls.Add(1)) - 1
	if n >= len(s.act) {
		n = len(s.act) - 1
	}
	s.act[n](w, r)
}

func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// charges is a step that counts, and then what next does.
func charges(t testing.TB, keys map[string]int, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, err := idempotency.Step(r.Context(), idempotency.AttemptFrom(r.Context()), "charge",
			func(_ context.Context, key string) (int, error) {
				keys[key]++
				return 7, nil
			})
		must(t, err)
		next(w, r)
	}
}

func panics(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// serveThrough serves and swallows the panic, as net/http does.
func serveThrough(h http.Handler, r *http.Request) (w *httptest.ResponseRecorder) {
	w = httptest.NewRecorder()
	defer func() { _ = recover() }()
	h.ServeHTTP(w, r)
	return w
}

// What a first attempt leaves behind decides what a retry with another body finds: a free key is acquired anew.
func TestRule30_KeyIsFreeOnlyIfNothingWasStarted(t *testing.T) {
	t.Parallel()
	const whole, steps = false, true
	for _, c := range []struct {
		steps  bool
		charge bool
		then   http.HandlerFunc
		free   bool
	}{
		{whole, false, says(500, ""), false},
		{whole, false, panics, false},
		{whole, false, says(429, ""), true},
		{whole, true, panics, false},
		{steps, false, says(503, ""), true},
		{steps, false, panics, true},
		{steps, false, says(401, ""), true},
		{steps, true, says(500, ""), false},
		{steps, true, panics, false},
		{steps, true, says(429, ""), false},
	} {
		first := c.then
		if c.charge {
			first = charges(t, map[string]int{}, c.then)
		}
		b := newBench(t, "sqlite", 0)
		h := idempotency.Middleware(b.store, scopeOf, idempotency.MiddlewareConfig{Steps: c.steps})(
			&script{act: []http.HandlerFunc{first, says(201, "done")}})
		serveThrough(h, request("k", "/", "{}"))
		if w := serve(h, request("k", "/", "other")); (w.Code == 201) != c.free {
			t.Errorf("%+v: the retry got %d %s", c, w.Code, w.Body)
		}
	}
}

func TestRule30_CrashLeavesTheOutcomeUnknown(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg  idempotency.MiddlewareConfig
		want int
		body string
	}{
		"refuse":    {idempotency.MiddlewareConfig{}, 409, "outcome-unknown"},
		"reexecute": {idempotency.MiddlewareConfig{OnUnknown: idempotency.Reexecute}, 201, "ran again"},
		"reconcile, done": {idempotency.MiddlewareConfig{
			OnUnknown: idempotency.Reconcile,
			Reconcile: func(_ context.Context, r *http.Request, a *idempotency.Attempt) (idempotency.Result, error) {
				body := fmt.Sprint("charged ", a.Key().ID, r.ContentLength)
				return idempotency.Result{Status: 200, Body: []byte(body)}, nil
			},
		}, 200, "charged k2"},
		"reconcile, not executed": {idempotency.MiddlewareConfig{
			OnUnknown: idempotency.Reconcile,
			Reconcile: func(context.Context, *http.Request, *idempotency.Attempt) (idempotency.Result, error) {
				return idempotency.Result{}, idempotency.ErrNotExecuted
			},
		}, 201, "ran again"},
		"reconcile, unknown": {idempotency.MiddlewareConfig{
			OnUnknown: idempotency.Reconcile,
			Reconcile: func(context.Context, *http.Request, *idempotency.Attempt) (idempotency.Result, error) {
				return idempotency.Result{}, errBoom
			},
		}, 409, "outcome-unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, "sqlite", 0)
			tokens := []int64{}
			note := func(next http.HandlerFunc) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					tokens = append(tokens, idempotency.AttemptFrom(r.Context()).Token())
					next(w, r)
				}
			}
			crash := note(func(http.ResponseWriter, *http.Request) { b.expire(t); panic(http.ErrAbortHandler) })
			h := idempotency.Middleware(b.store, scopeOf, c.cfg)(
				&script{act: []http.HandlerFunc{crash, note(says(201, "ran again"))}})
			serveThrough(h, request("k", "/", "{}"))
			for range 2 {
				w := serve(h, request("k", "/", "{}"))
				if w.Code != c.want || !strings.Contains(w.Body.String(), c.body) {
					t.Errorf("got %d %s, want %d %s", w.Code, w.Body, c.want, c.body)
				}
			}
			wantProblem(t, serve(h, request("k", "/", "other")), 422, "key-reused")
			if len(tokens) == 2 && tokens[1] <= tokens[0] || len(tokens) > 2 {
				t.Errorf("fencing tokens %v", tokens)
			}
		})
	}
}

// A holder that was taken for dead finds out when it wants to store its answer, and by its context.
func TestLeaseLostWhileTheHandlerRuns(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	var second *httptest.ResponseRecorder
	var h http.Handler
	cfg := idempotency.MiddlewareConfig{OnUnknown: idempotency.Reexecute, Lease: 3 * time.Second}
	first := func(w http.ResponseWriter, r *http.Request) {
		b.expire(t)
		second = serve(h, request("k", "/", "{}"))
		<-r.Context().Done()
		if err := context.Cause(r.Context()); !errors.Is(err, idempotency.ErrLost) {
			t.Errorf("the context ended with %v", err)
		}
		says(201, "from the dead")(w, r)
	}
	h = idempotency.Middleware(b.store, scopeOf, cfg)(&script{act: []http.HandlerFunc{first, says(201, "second")}})
	wantProblem(t, serve(h, request("k", "/", "{}")), 409, "outcome-unknown")
	if second.Body.String() != "second" {
		t.Errorf("the second attempt got %d %s", second.Code, second.Body)
	}
	if w := serve(h, request("k", "/", "{}")); w.Body.String() != "second" || !replayed(w) {
		t.Errorf("replay is %d %s", w.Code, w.Body)
	}
}

func TestStreamedAndLongAnswersAreNotReplayable(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	mw := idempotency.Middleware(b.store, scopeOf, idempotency.MiddlewareConfig{MaxResponse: 8})
	for name, handler := range map[string]http.HandlerFunc{
		"long": says(201, "more than eight bytes"),
		"streamed": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("a"))
			w.(http.Flusher).Flush()
			_, _ = w.Write([]byte("b"))
		},
	} {
		h := mw(handler)
		if w := serve(h, request(name, "/", "")); w.Code >= 300 || w.Body.Len() < 2 || name == "streamed" != w.Flushed {
			t.Errorf("%s: first answer %d %s", name, w.Code, w.Body)
		}
		wantProblem(t, serve(h, request(name, "/", "")), 409, "not-replayable")
	}
}

// Steps that are done are not repeated; the one under way is, with the same key.
func TestStepsAreRecoveryPoints(t *testing.T) {
	t.Parallel()
	onEach(t, 0, func(t *testing.T, b *bench) {
		k := idempotency.Key{Scope: "c", Operation: "pay", ID: "k"}
		calls := map[string][]string{}
		crash := true
		step := func(ctx context.Context, a *idempotency.Attempt, name string) (int, error) {
			return idempotency.Step(ctx, a, name, func(_ context.Context, key string) (int, error) {
				calls[name] = append(calls[name], key)
				if name == "mail" && crash {
					crash = false
					return 0, errBoom
				}
				return len(name), nil
			})
		}
		both := func(ctx context.Context, a *idempotency.Attempt) (int, error) {
			n, err := step(ctx, a, "charge")
			if err != nil {
				return 0, err
			}
			m, err := step(ctx, a, "mail")
			return n + m, err
		}
		pay := func() (int, idempotency.Info, error) {
			return idempotency.Do(t.Context(), b.store, k, "10 EUR", both)
		}
		_, _, err := pay()
		wantErr(t, err, errBoom)
		n, info, err := pay()
		if err != nil || n != 10 || !info.Recovered || info.Replayed {
			t.Errorf("second call: %d, %+v, %v", n, info, err)
		}
		n, info, err = pay()
		if err != nil || n != 10 || !info.Replayed {
			t.Errorf("third call: %d, %+v, %v", n, info, err)
		}
		c, m := calls["charge"], calls["mail"]
		if len(c) != 1 || len(m) != 2 || m[0] != m[1] || c[0] == m[0] {
			t.Errorf("calls %v", calls)
		}
	})
}

func TestDoRefusesWhatItCannotKeep(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	k := idempotency.Key{Scope: "c", Operation: "pay", ID: "k"}
	pay := func(ctx context.Context, in any, o ...idempotency.DoOptions) error {
		_, _, err := idempotency.Do(ctx, b.store, k, in, func(ctx context.Context, a *idempotency.Attempt) (int, error) {
			_, _, err := idempotency.Do(ctx, b.store, k, in, func(context.Context, *idempotency.Attempt) (int, error) {
				return 0, nil
			})
			wantErr(t, err, idempotency.ErrInFlight)
			return 0, errors.Join(a.Start(ctx), errBoom)
		}, o...)
		return err
	}
	wantErr(t, pay(t.Context(), 1), errBoom)
	wantErr(t, pay(t.Context(), 2), idempotency.ErrMismatch)
	wantErr(t, pay(t.Context(), 1, idempotency.DoOptions{OnUnknown: idempotency.Refuse}), idempotency.ErrUnknown)
	must(t, b.work.Do(t.Context(), func(ctx context.Context) error {
		wantErr(t, pay(ctx, 1), idempotency.ErrInTransaction)
		_, err := b.store.Begin(ctx, idempotency.ClaimRequest{Key: k})
		wantErr(t, err, idempotency.ErrInTransaction)
		return nil
	}))
	_, err := idempotency.Step(t.Context(), nil, "s", func(context.Context, string) (int, error) { return 0, nil })
	if err == nil {
		t.Error("a step without an attempt ran")
	}
}
