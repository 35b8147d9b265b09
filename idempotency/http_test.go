package idempotency_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/surge-go/surge/idempotency"
)

// modes are the two middlewares that store a handler's whole answer.
func modes(b *bench, cfg idempotency.MiddlewareConfig) map[string]func(http.Handler) http.Handler {
	return map[string]func(http.Handler) http.Handler{
		"tx":    idempotency.MiddlewareTx(b.store, scopeOf, cfg),
		"lease": idempotency.Middleware(b.store, scopeOf, cfg),
	}
}

func TestWhichAnswersAreStored(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	stored := map[int]bool{
		200: true, 202: true, 204: true, 303: true, 400: true, 404: true, 409: true, 422: true,
		401: false, 403: false, 408: false, 425: false, 429: false, 500: false, 503: false,
	}
	cfg := idempotency.MiddlewareConfig{Steps: true}
	for mode, mw := range modes(b, cfg) {
		for status, want := range stored {
			calls := 0
			h := mw(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				calls++
				w.Header().Set("Location", "/x")
				w.WriteHeader(status)
				if status != 204 {
					_, _ = fmt.Fprint(w, "call ", calls)
				}
			}))
			key := fmt.Sprint(mode, status)
			first, again := serve(h, request(key, "/", "{}")), serve(h, request(key, "/", "{}"))
			if first.Code != status || replayed(first) {
				t.Errorf("%s: first answer %d", key, first.Code)
			}
			if replayed(again) != want || again.Code != status || (calls == 1) != want {
				t.Errorf("%s: second answer %d, %d calls, replayed %v", key, again.Code, calls, replayed(again))
			}
			if want && answerOf(first) != answerOf(again) {
				t.Errorf("%s: first %s, then %s", key, answerOf(first), answerOf(again))
			}
		}
	}
}

// Secrets and what belongs to one connection reach the first caller only.
func TestSecretsAreNotStored(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	for mode, mw := range modes(b, idempotency.MiddlewareConfig{}) {
		h := mw(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for _, name := range []string{"Set-Cookie", "Authorization", "Connection", "X-Kept"} {
				w.Header().Set(name, "s3cret")
			}
			_, _ = io.WriteString(w, "ok")
		}))
		first, again := serve(h, request(mode, "/", "")), serve(h, request(mode, "/", ""))
		if first.Header().Get("Set-Cookie") == "" || again.Header().Get("X-Kept") == "" {
			t.Errorf("%s: first %v, then %v", mode, first.Header(), again.Header())
		}
		for _, name := range []string{"Set-Cookie", "Authorization", "Connection"} {
			if again.Header().Get(name) != "" {
				t.Errorf("%s: %s is replayed", mode, name)
			}
		}
		var header string
		must(t, b.db.Raw("SELECT group_concat(CAST(header AS TEXT)) FROM idempotency_keys").Row().Scan(&header))
		if strings.Contains(header, "Cookie") || strings.Contains(header, "Authorization") {
			t.Errorf("%s: stored %s", mode, header)
		}
	}
}

func TestProtocolErrors(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	cfg := idempotency.MiddlewareConfig{MaxBody: 16}
	all := modes(b, cfg)
	all["commands"] = idempotency.ForCommands(b.store, scopeOf, cfg)
	for mode, mw := range all {
		h := mw(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := execute(r.Context(), b, func(context.Context) (string, error) { return "", nil })
			if err != nil {
				w.WriteHeader(http.StatusInternalServerError) // what the client is told is not the handler's to say
			}
			_, _ = io.Copy(w, r.Body)
		}))
		with := func(change func(*http.Request)) *http.Request {
			r := request(mode, "/orders?a=1", "body")
			r.Header.Set("Content-Type", "text/plain")
			change(r)
			return r
		}
		for _, c := range []struct {
			change func(*http.Request)
			status int
			kind   string
		}{
			{func(r *http.Request) { r.Header.Del(idempotency.KeyHeader) }, 400, "key-missing"},
			{func(r *http.Request) { r.Header.Set(idempotency.KeyHeader, "") }, 400, "key-malformed"},
			{func(r *http.Request) { r.Header.Set(idempotency.KeyHeader, `"open`) }, 400, "key-malformed"},
			{func(r *http.Request) { r.Header.Add(idempotency.KeyHeader, "second") }, 400, "key-malformed"},
			{func(r *http.Request) { r.Header.Set(idempotency.KeyHeader, strings.Repeat("x", 256)) }, 400, "key-malformed"},
			{func(r *http.Request) { r.Header.Del("X-Customer") }, 403, "scope-missing"},
			{func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("seventeen bytes..")) }, 413, "body-too-large"},
			{func(r *http.Request) { r.Body = io.NopCloser(failing{}) }, 400, "body-unreadable"},
		} {
			wantProblem(t, serve(h, with(c.change)), c.status, c.kind)
		}
		same := func(*http.Request) {}
		if w := serve(h, with(same)); w.Code != 200 || w.Body.String() != "body" {
			t.Errorf("%s: %d %s", mode, w.Code, w.Body)
		}
		for name, change := range map[string]func(*http.Request){
			"query":        func(r *http.Request) { r.URL.RawQuery = "a=2" },
			"content type": func(r *http.Request) { r.Header.Set("Content-Type", "text/html") },
			"body":         func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("Body")) },
		} {
			if w := serve(h, with(change)); w.Code != 422 {
				t.Errorf("%s: other %s: %d", mode, name, w.Code)
			}
		}
		for name, change := range map[string]func(*http.Request){
			"other scope":     func(r *http.Request) { r.Header.Set("X-Customer", "c-2") },
			"other operation": func(r *http.Request) { r.Pattern = "PUT /orders" },
		} {
			if w := serve(h, with(change)); w.Code != 200 || replayed(w) {
				t.Errorf("%s: %s: %d", mode, name, w.Code)
			}
		}
		get := with(func(r *http.Request) { r.Method = http.MethodGet; r.Header.Del(idempotency.KeyHeader) })
		if w := serve(h, get); w.Code != 200 {
			t.Errorf("%s: GET: %d", mode, w.Code)
		}
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errBoom }

// When keys cannot be checked, nothing runs.
func TestStoreDownFailsClosed(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	must(t, b.db.Exec("DROP TABLE idempotency_keys").Error)
	all := modes(b, idempotency.MiddlewareConfig{})
	all["commands"] = idempotency.ForCommands(b.store, scopeOf, idempotency.MiddlewareConfig{})
	for mode, mw := range all {
		ran := false
		h := mw(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := execute(r.Context(), b, func(context.Context) (string, error) { ran = true; return "", nil })
			if err == nil {
				t.Errorf("%s: no error", mode)
			}
		}))
		wantProblem(t, serve(h, request("k", "/", "")), 503, "unavailable")
		if ran {
			t.Errorf("%s: it ran", mode)
		}
	}
}

func TestRule29_RawHandlerCommitsWithItsAnswer(t *testing.T) {
	t.Parallel()
	onEach(t, 0, func(t *testing.T, b *bench) {
		h := idempotency.MiddlewareTx(b.store, scopeOf, idempotency.MiddlewareConfig{})(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				must(t, err)
				if err := place(r.Context(), string(body)); err != nil {
					w.WriteHeader(http.StatusInternalServerError)
					return
				}
				switch q := r.URL.Query(); {
				case q.Has("reject"):
					w.WriteHeader(http.StatusConflict)
				case q.Has("fail"):
					w.WriteHeader(http.StatusServiceUnavailable)
				case q.Has("panic"):
					panic(http.ErrAbortHandler)
				}
				_, _ = fmt.Fprint(w, "placed ", string(body))
			}))
		for _, c := range []struct {
			target string
			status int
			orders int64
		}{{"/", 200, 1}, {"/?reject", 409, 0}, {"/?fail", 503, 0}, {"/?panic", 200, 0}} {
			first := serveThrough(h, request(c.target, c.target, "o"+c.target))
			if first.Code != c.status || b.count(t, "orders", "id = ?", "o"+c.target) != c.orders {
				t.Errorf("%s: %d %s", c.target, first.Code, first.Body)
			}
			free := c.target == "/?fail" || c.target == "/?panic"
			if n := b.count(t, "idempotency_keys", "1 = 1"); free && n != 2 {
				t.Errorf("%s: %d keys, want the two that are answered", c.target, n)
			}
			if again := serveThrough(h, request(c.target, c.target, "o"+c.target)); replayed(again) == free {
				t.Errorf("%s: then %d %s", c.target, again.Code, again.Body)
			} else if !free && answerOf(first) != answerOf(again) {
				t.Errorf("%s: first %s, then %s", c.target, answerOf(first), answerOf(again))
			}
		}
	})
}

// Many raw handlers with duplicates of their own share transactions; one that refuses after a write is undone alone.
func TestRule29_RawHandlersRace(t *testing.T) {
	t.Parallel()
	onEach(t, 64, func(t *testing.T, b *bench) {
		h := idempotency.MiddlewareTx(b.store, scopeOf, idempotency.MiddlewareConfig{Wait: 20e9})(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if err := place(r.Context(), string(body)); err != nil {
					w.WriteHeader(http.StatusInternalServerError)
				} else if strings.HasSuffix(string(body), "3") {
					w.WriteHeader(http.StatusConflict)
				}
			}))
		const keys, tries = 40, 3
		got := make([]map[int]int, keys)
		for i, w := range serveAll(h, keys*tries, func(i int) *http.Request {
			return request(fmt.Sprint(i%keys), "/", fmt.Sprint(i%keys))
		}) {
			if got[i%keys] == nil {
				got[i%keys] = map[int]int{}
			}
			got[i%keys][w.Code]++
		}
		accepted := int64(0)
		for i, codes := range got {
			if len(codes) != 1 {
				t.Errorf("key %d got %v", i, codes)
			}
			if codes[200] > 0 {
				accepted++
			}
		}
		if n := b.count(t, "orders", "1 = 1"); n != accepted || n != keys-4 {
			t.Errorf("%d orders, %d accepted", n, accepted)
		}
	})
}

func TestMiddlewareConfigIsChecked(t *testing.T) {
	t.Parallel()
	for _, c := range []idempotency.MiddlewareConfig{
		{Wait: -1},
		{MaxBody: -1},
		{MaxResponse: -1},
		{Lease: -1},
		{Timeout: -1},
		{OnUnknown: 9},
		{OnUnknown: idempotency.Reconcile},
	} {
		if c.Validate() == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("no panic without a scope")
		}
	}()
	idempotency.ForCommands(nil, nil, idempotency.MiddlewareConfig{})
}

// A scope's error is not told to the client.
func TestScopeErrorIsARefusal(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	scope := func(*http.Request) (string, error) { return "", errors.New("token of alice expired") }
	h := idempotency.ForCommands(b.store, scope, idempotency.MiddlewareConfig{})(http.NotFoundHandler())
	w := httptest.NewRecorder()
	h.ServeHTTP(w, request("k", "/", ""))
	wantProblem(t, w, 403, "scope-missing")
	if strings.Contains(w.Body.String(), "alice") {
		t.Error(w.Body)
	}
}
