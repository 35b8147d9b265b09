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
	"sync/atomic"
	"testing"
	"time"

	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox/uow"
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

// A command inside a command is part of it, and has no key.
func TestCommandInsideACommand(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	h := idempotency.ForCommands(b.store, scopeOf, idempotency.MiddlewareConfig{})(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := execute(r.Context(), b, func(ctx context.Context) (string, error) {
				inner, err := execute(ctx, b, func(ctx context.Context) (string, error) { return "b", place(ctx, "b") })
				return "a" + inner.Order, errors.Join(err, place(ctx, "a"))
			})
			must(t, err)
		}))
	serve(h, request("k", "/orders", "{}"))
	if w := serve(h, request("k", "/orders", "{}")); !replayed(w) {
		t.Error("not replayed")
	}
	if n := b.count(t, "orders", "1 = 1"); n != 2 {
		t.Errorf("%d orders, want 2", n)
	}
}

// While another replica's transaction holds a key, a duplicate is told so at once and does not wait in an INSERT,
// where it would hold up its neighbours.
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

// A crowd repeats its requests at once, on two replicas; some hang up, some are rejected before or after they have
// written, some fail. Every key ends with one answer, and the orders are those that were accepted.
func TestRule29_Crowd(t *testing.T) {
	t.Parallel()
	for _, share := range []int{1, 64} {
		t.Run(fmt.Sprint("share", share), func(t *testing.T) {
			t.Parallel()
			onEach(t, share, func(t *testing.T, b *bench) { crowd(t, b, replica(t, b, share)) })
		})
	}
}

func crowd(t *testing.T, benches ...*bench) {
	t.Helper()
	const keys, tries = 60, 4
	cfg := idempotency.MiddlewareConfig{Wait: 20 * time.Second}
	var handlers []http.Handler
	for _, b := range benches {
		handlers = append(handlers, idempotency.ForCommands(b.store, scopeOf, cfg)(orders(b)))
	}
	var mu sync.Mutex
	answers := map[string]map[string]bool{}
	var wg sync.WaitGroup
	limit := make(chan struct{}, 64)
	for n := range keys * tries {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			i := n / tries
			target := [...]string{"/orders", "/orders?reject", "/orders?early", "/orders", "/orders"}[i%5]
			r := request(fmt.Sprint("k-", i), target, "{}")
			if n%7 == 3 {
				ctx, cancel := context.WithTimeout(r.Context(), time.Duration(n)*10*time.Microsecond)
				defer cancel()
				r = r.WithContext(ctx)
			}
			w := serve(handlers[n%len(handlers)], r)
			if w.Code == http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "in-flight") {
				return // hung up, or lost its patience when it did
			}
			mu.Lock()
			defer mu.Unlock()
			if answers[target+fmt.Sprint(i)] == nil {
				answers[target+fmt.Sprint(i)] = map[string]bool{}
			}
			answers[target+fmt.Sprint(i)][answerOf(w)] = true
		})
	}
	wg.Wait()
	accepted := int64(0)
	for key, a := range answers {
		if len(a) != 1 {
			t.Errorf("%s has %d answers: %v", key, len(a), a)
		}
		for s := range a {
			if strings.HasPrefix(s, "202") {
				accepted++
			}
		}
	}
	b := benches[0]
	if n := b.count(t, "orders", "1 = 1"); n != accepted || len(answers) != keys {
		t.Errorf("%d orders, %d accepted, %d of %d keys answered", n, accepted, len(answers), keys)
	}
	if n := b.count(t, "idempotency_keys", "state <> 1"); n != 0 {
		t.Errorf("%d keys are held by nobody", n)
	}
}

// A duplicate in the same transaction gets its neighbour's answer, in the same commit.
func TestRule29_DuplicatesShareATransaction(t *testing.T) {
	t.Parallel()
	onEach(t, 0, func(t *testing.T, b *bench) {
		const n = 20
		b = together(t, b, n)
		var mu sync.Mutex
		runs := 0
		h := idempotency.ForCommands(b.store, scopeOf, idempotency.MiddlewareConfig{})(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				o, err := execute(r.Context(), b, func(ctx context.Context) (string, error) {
					mu.Lock()
					defer mu.Unlock()
					runs++
					return fmt.Sprint("run ", runs), place(ctx, fmt.Sprint(runs))
				})
				_, _ = fmt.Fprint(w, o, err)
			}))
		answers, replays := map[string]int{}, 0
		for _, w := range serveAll(h, n, func(int) *http.Request { return request("k", "/", "{}") }) {
			answers[w.Body.String()]++
			if replayed(w) {
				replays++
			}
		}
		if runs != 1 || len(answers) != 1 || replays != n-1 {
			t.Errorf("%d runs, answers %v, %d replays", runs, answers, replays)
		}
		if c := b.work.Stats(); c.Commits != 1 || c.Parts != n {
			t.Errorf("%+v, want one commit", c)
		}
	})
}

// A part is undone after its answer was given to a duplicate in the same transaction: that answer must not stand.
// What the command wrote, or did not write, decides how the unit of work undoes the part.
func TestRule29_AnswerOfAnUndoneNeighbourDoesNotStand(t *testing.T) {
	t.Parallel()
	for _, writes := range []bool{false, true} {
		t.Run(fmt.Sprint("writes ", writes), func(t *testing.T) {
			t.Parallel()
			onEach(t, 0, func(t *testing.T, b *bench) { undoneNeighbour(t, together(t, b, 6), writes) })
		})
	}
}

func undoneNeighbour(t *testing.T, b *bench, writes bool) {
	t.Helper()
	var doomed atomic.Value // the first caller whose command ran
	h := idempotency.ForCommands(b.store, scopeOf, idempotency.MiddlewareConfig{})(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var o outcome
			me := r.Header.Get("X-Caller")
			err := b.work.Do(r.Context(), func(ctx context.Context) (err error) {
				o, err = execute(ctx, b, func(ctx context.Context) (string, error) {
					doomed.CompareAndSwap(nil, me)
					if writes {
						return me, place(ctx, me)
					}
					return me, nil
				})
				if err == nil && o.Order == me && doomed.Load() == me {
					err = errBoom // the outer part fails after its command succeeded
				}
				return err
			})
			_, _ = fmt.Fprint(w, o.Order, " ", err)
		}))
	answers := map[string]int{}
	all := serveAll(h, 6, func(i int) *http.Request {
		r := request("k", "/", "{}")
		r.Header.Set("X-Caller", fmt.Sprint(i))
		return r
	})
	for _, w := range all {
		if !strings.Contains(w.Body.String(), "boom") {
			answers[w.Body.String()]++
		}
	}
	if len(answers) != 1 {
		t.Errorf("answers %v, want one", answers)
	}
	if n := b.count(t, "idempotency_keys", "state = 1"); n != 1 {
		t.Errorf("%d keys are done, want 1", n)
	}
	if n := b.count(t, "orders", "1 = 1"); writes && n != 1 || !writes && n != 0 {
		t.Errorf("%d orders", n)
	}
}

// together is b with a unit of work whose transactions begin when n callers are there.
func together(t *testing.T, b *bench, n int) *bench {
	t.Helper()
	c := *b
	var err error
	c.work, err = uow.New(b.db, uow.Config{MaxShare: n, Writers: 1, Linger: 10 * time.Second})
	must(t, err)
	c.store, err = idempotency.NewGormStore(c.work, idempotency.StoreConfig{})
	must(t, err)
	return &c
}

// serveAll serves n requests at once.
func serveAll(h http.Handler, n int, r func(i int) *http.Request) []*httptest.ResponseRecorder {
	answers := make([]*httptest.ResponseRecorder, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { answers[i] = serve(h, r(i)) })
	}
	wg.Wait()
	return answers
}
