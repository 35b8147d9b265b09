package idempotency_test

import (
	"context"
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

// A duplicate in the same transaction gets its neighbor's answer, in the same commit.
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
func TestRule29_AnswerOfAnUndoneNeighborDoesNotStand(t *testing.T) {
	t.Parallel()
	for _, writes := range []bool{false, true} {
		t.Run(fmt.Sprint("writes ", writes), func(t *testing.T) {
			t.Parallel()
			onEach(t, 0, func(t *testing.T, b *bench) { undoneNeighbor(t, together(t, b, 6), writes) })
		})
	}
}

func undoneNeighbor(t *testing.T, b *bench, writes bool) {
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
