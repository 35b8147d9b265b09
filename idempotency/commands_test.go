package idempotency_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surge-go/surge/idempotency"
)

var errSoldOut = errors.New("sold out")

// outcome is what a command leaves: a receipt or a rejection, as package cqrs stores it.
type outcome struct {
	Order    string `json:"order,omitempty"`
	Rejected string `json:"rejected,omitempty"`
	private  string // the store does not keep it
}

// execute stands for cqrs.Execute: the handler is a nested part, and a rejection is a result.
func execute(ctx context.Context, b *bench, handle func(context.Context) (string, error)) (o outcome, err error) {
	err = b.work.Do(ctx, func(ctx context.Context) error {
		o = outcome{}
		return b.store.Once(ctx, &o, func(ctx context.Context) error {
			o.private = "seen by the first answer only"
			err := b.work.Do(ctx, func(ctx context.Context) (err error) {
				o.Order, err = handle(ctx)
				return err
			})
			if errors.Is(err, errSoldOut) {
				o, err = outcome{Rejected: err.Error()}, nil
			}
			return err
		})
	})
	return o, err
}

func scopeOf(r *http.Request) (string, error) { return r.Header.Get("X-Customer"), nil }

// orders is an HTTP handler in the style that ForCommands wants. What the command does hangs on the query.
func orders(b *bench) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, _ := idempotency.KeyFrom(r.Context())
		o, err := execute(r.Context(), b, func(ctx context.Context) (string, error) {
			id := key.UUID("order")
			switch q := r.URL.Query(); {
			case q.Has("early"):
				return "", errSoldOut
			case q.Has("failearly"):
				return "", errBoom
			}
			if err := place(ctx, id); err != nil {
				return "", err
			}
			switch q := r.URL.Query(); {
			case q.Has("reject"):
				return "", errSoldOut
			case q.Has("fail"):
				return "", errBoom
			case q.Has("panic"):
				panic(errBoom)
			}
			return id, nil
		})
		w.Header().Set("Content-Type", "application/json")
		switch {
		case err != nil:
			w.WriteHeader(http.StatusServiceUnavailable)
		case o.Rejected != "":
			w.WriteHeader(http.StatusConflict)
		default:
			w.Header().Set("Location", "/orders/"+o.Order)
			w.WriteHeader(http.StatusAccepted)
		}
		_, _ = fmt.Fprintf(w, "%+v", o)
	})
}

func request(key, target, body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(body))
	r.Header.Set("X-Customer", "c-1")
	if key != "" {
		r.Header.Set(idempotency.KeyHeader, key)
	}
	return r
}

func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// wantProblem checks a problem detail.
func wantProblem(t testing.TB, w *httptest.ResponseRecorder, status int, kind string) {
	t.Helper()
	var p struct {
		Type, Title string
		Status      int
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Errorf("answer %d %q is no problem: %v", w.Code, w.Body, err)
		return
	}
	if w.Code != status || p.Status != status || p.Type != idempotency.ProblemPrefix+kind || p.Title == "" {
		t.Errorf("answer %d %s, want %d %s", w.Code, w.Body, status, kind)
	}
	if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("content type is %q", ct)
	}
	if status == http.StatusServiceUnavailable || kind == "in-flight" {
		if w.Header().Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
}

// answerOf is what a client compares: everything that is stored.
func answerOf(w *httptest.ResponseRecorder) string {
	return fmt.Sprint(w.Code, w.Header().Get("Location"), w.Header().Get("Content-Type"), w.Body)
}

func replayed(w *httptest.ResponseRecorder) bool {
	return w.Header().Get(idempotency.ReplayedHeader) == "true"
}

func TestRule29_CommandIsRenderedFromItsRecord(t *testing.T) {
	t.Parallel()
	onEach(t, 0, func(t *testing.T, b *bench) {
		h := idempotency.ForCommands(b.store, scopeOf, idempotency.MiddlewareConfig{})(orders(b))
		for _, target := range []string{"/orders", "/orders?reject", "/orders?early"} {
			key := "k" + target
			first := serve(h, request(key, target, "{}"))
			again := serve(h, request(`"`+key+`"`, target, "{}"))
			if replayed(first) || !replayed(again) {
				t.Errorf("%s: replayed is %v, then %v", target, replayed(first), replayed(again))
			}
			if answerOf(first) != answerOf(again) {
				t.Errorf("%s: first %s, then %s", target, answerOf(first), answerOf(again))
			}
			if strings.Contains(first.Body.String(), "first answer only") {
				t.Errorf("%s: the first answer was not made of the record: %s", target, first.Body)
			}
		}
		if n := b.count(t, "orders", "1 = 1"); n != 1 {
			t.Errorf("%d orders, want 1", n)
		}
	})
}

func TestRule29_CommandThatFailsFreesTheKey(t *testing.T) {
	t.Parallel()
	onEach(t, 0, func(t *testing.T, b *bench) {
		h := idempotency.ForCommands(b.store, scopeOf, idempotency.MiddlewareConfig{})(orders(b))
		for _, target := range []string{"/orders?fail", "/orders?failearly"} {
			if w := serve(h, request("k", target, "{}")); w.Code != http.StatusServiceUnavailable || replayed(w) {
				t.Errorf("%s: got %d %s", target, w.Code, w.Body)
			}
		}
		func() {
			defer func() {
				if v := recover(); v != errBoom { //nolint:errorlint // the panic's own value
					t.Errorf("panic is %v", v)
				}
			}()
			serve(h, request("k", "/orders?panic", "{}"))
		}()
		if n := b.count(t, "idempotency_keys", "1 = 1"); n != 0 {
			t.Errorf("%d keys are held by nobody", n)
		}
		if w := serve(h, request("k", "/orders", "{}")); w.Code != http.StatusAccepted || replayed(w) {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
	})
}

func TestCommandMismatchAndSpent(t *testing.T) {
	t.Parallel()
	onEach(t, 0, func(t *testing.T, b *bench) {
		mw := idempotency.ForCommands(b.store, scopeOf, idempotency.MiddlewareConfig{})
		h := mw(orders(b))
		serve(h, request("k", "/orders", "{}"))
		wantProblem(t, serve(h, request("k", "/orders", "{ }")), 422, "key-reused")

		twice := mw(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			orders(b).ServeHTTP(httptest.NewRecorder(), r)
			orders(b).ServeHTTP(w, r)
		}))
		wantProblem(t, serve(twice, request("k2", "/orders", "{}")), 500, "key-spent")
		if n := b.count(t, "orders", "1 = 1"); n != 2 {
			t.Errorf("%d orders, want 2", n)
		}
	})
}

// Two commands in one transaction of the handler's have one key between them as well: the second is not answered with
// the result of the first.
func TestTwoCommandsInOneTransactionSpendTheKey(t *testing.T) {
	t.Parallel()
	onEach(t, 0, func(t *testing.T, b *bench) {
		h := idempotency.ForCommands(b.store, scopeOf, idempotency.MiddlewareConfig{})(
			http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				err := b.work.Do(r.Context(), func(ctx context.Context) error {
					for _, id := range []string{"a", "b"} {
						o, err := execute(ctx, b, func(ctx context.Context) (string, error) { return id, place(ctx, id) })
						if err != nil {
							return err
						}
						if o.Order != id {
							t.Errorf("command %s was answered with %s", id, o.Order)
						}
					}
					return nil
				})
				wantErr(t, err, idempotency.ErrSpent)
			}))
		wantProblem(t, serve(h, request("k", "/orders", "{}")), 500, "key-spent")
		if n := b.count(t, "orders", "1 = 1") + b.count(t, "idempotency_keys", "1 = 1"); n != 0 {
			t.Errorf("%d orders and keys, want none", n)
		}
	})
}

// A command inside a command is part of it, and has no key.
func TestCommandInsideACommand(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	h := idempotency.ForCommands(b.store, scopeOf, idempotency.MiddlewareConfig{})(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			o, err := execute(r.Context(), b, func(ctx context.Context) (string, error) {
				one, err := execute(ctx, b, func(ctx context.Context) (string, error) { return "b", place(ctx, "b") })
				must(t, err)
				two, err := execute(ctx, b, func(ctx context.Context) (string, error) { return "c", place(ctx, "c") })
				return "a" + one.Order + two.Order, errors.Join(err, place(ctx, "a"))
			})
			must(t, err)
			_, _ = fmt.Fprint(w, o.Order)
		}))
	for range 2 {
		if w := serve(h, request("k", "/orders", "{}")); w.Body.String() != "abc" {
			t.Errorf("got %s", w.Body)
		}
	}
	if n := b.count(t, "orders", "1 = 1"); n != 3 {
		t.Errorf("%d orders, want 3", n)
	}
}

// While another replica's transaction holds a key, a duplicate is told so at once and does not wait in an INSERT,
// where it would hold up its neighbors.
func TestRule29_DuplicateOnAnotherReplicaIsInFlight(t *testing.T) {
	t.Parallel()
	b := newBench(t, "postgres", 0)
	other := replica(t, b, 0)
	inside, release := make(chan struct{}), make(chan struct{})
	k := idempotency.Key{Scope: "c-1", Operation: "place", ID: "k"}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _, err := idempotency.DoTx(t.Context(), b.store, k, 1, func(ctx context.Context) (int, error) {
			close(inside)
			<-release
			return 1, place(ctx, "a")
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-inside
	began := time.Now()
	_, _, err := idempotency.DoTx(t.Context(), other.store, k, 1, func(context.Context) (int, error) { return 2, nil })
	wantErr(t, err, idempotency.ErrInFlight)
	_, _, err = idempotency.DoTx(t.Context(), other.store, idempotency.Key{Scope: "c-1", Operation: "place", ID: "k2"}, 1,
		func(ctx context.Context) (int, error) { return 2, place(ctx, "b") })
	must(t, err)
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
	close(release)
	wg.Wait()
	n, info, err := idempotency.DoTx(t.Context(), other.store, k, 1, func(context.Context) (int, error) { return 2, nil })
	if err != nil || n != 1 || !info.Replayed {
		t.Errorf("got %d, %+v, %v", n, info, err)
	}
}
