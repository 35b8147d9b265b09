package idempotency_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/surge-go/surge/idempotency"
)

// A key belongs to the request as it was sent, not to what was left of its path.
func TestAHandlerUnderTwoPrefixes(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	mux := http.NewServeMux()
	for _, city := range []string{"berlin", "paris"} {
		api := http.NewServeMux()
		api.Handle("POST /orders", idempotency.MiddlewareTx(b.store, scopeOf, idempotency.MiddlewareConfig{})(
			says(201, "ordered in "+city)))
		mux.Handle("/"+city+"/", http.StripPrefix("/"+city, api))
	}
	if w := serve(mux, request("k", "/berlin/orders", "{}")); w.Body.String() != "ordered in berlin" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	wantProblem(t, serve(mux, request("k", "/paris/orders", "{}")), 422, "key-reused")
}

// What was stored before an endpoint changed its kind cannot be replayed, and is not taken for something else.
func TestAnEndpointThatChangedItsKind(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	cfg := idempotency.MiddlewareConfig{}
	commands := idempotency.ForCommands(b.store, scopeOf, cfg)(orders(b))
	tx := idempotency.MiddlewareTx(b.store, scopeOf, cfg)(says(201, "{}"))
	lease := idempotency.Middleware(b.store, scopeOf, cfg)(says(201, "{}"))
	for i, c := range []struct{ before, after http.Handler }{
		{commands, tx}, {commands, lease}, {tx, commands}, {lease, commands},
	} {
		key := fmt.Sprint("k", i)
		if w := serve(c.before, request(key, "/orders", "{}")); w.Code/100 != 2 {
			t.Fatal(w.Code, w.Body)
		}
		wantProblem(t, serve(c.after, request(key, "/orders", "{}")), 409, "not-replayable")
	}
}

// A store that cannot commit with the command must not let it run as if there were no key.
func TestForCommandsWithTheStoreOfAnotherUnitOfWork(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	other := replica(t, b, 0)
	ran := 0
	h := idempotency.ForCommands(other.store, scopeOf, idempotency.MiddlewareConfig{})(http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			if _, err := execute(r.Context(), b, func(context.Context) (string, error) { ran++; return "o", nil }); err == nil {
				w.WriteHeader(http.StatusCreated)
			}
		}))
	wantProblem(t, serve(h, request("k", "/orders", "{}")), 503, "unavailable")
	if ran != 0 {
		t.Errorf("it ran %d times", ran)
	}
}

func TestALongPathIsAnOperation(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	h := idempotency.MiddlewareTx(b.store, scopeOf, idempotency.MiddlewareConfig{})(says(201, "x"))
	long := "/orders/" + strings.Repeat("x", idempotency.MaxKeyPart)
	for i, path := range []string{long, long, long + "y"} {
		if w := serve(h, request("k", path, "{}")); w.Code != 201 || replayed(w) != (i == 1) {
			t.Errorf("request %d: %d %s, replayed %v", i, w.Code, w.Body, replayed(w))
		}
	}
}
