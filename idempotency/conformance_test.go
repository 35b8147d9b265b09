package idempotency_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs/cqrstest"
	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/idempotency/internal/testdb"
)

func TestRule02_Inbox(t *testing.T) {
	t.Parallel()
	for _, dialect := range testdb.Dialects {
		t.Run(dialect, func(t *testing.T) {
			t.Parallel()
			cqrstest.RunInbox(t, func(t *testing.T) cqrstest.InboxFixture {
				b := newBench(t, dialect, 0)
				return cqrstest.InboxFixture{Inbox: idempotency.NewInbox(idempotency.InboxConfig{}), Work: b.work}
			})
		})
	}
}

func TestRule29_Keys(t *testing.T) {
	t.Parallel()
	for _, dialect := range testdb.Dialects {
		t.Run(dialect, func(t *testing.T) {
			t.Parallel()
			cqrstest.RunKeys(t, func(t *testing.T) cqrstest.KeysFixture {
				b := newBench(t, dialect, 0)
				return cqrstest.KeysFixture{
					Keys: b.store, Work: b.work, Request: b.request,
					InFlight: func(err error) bool { return errors.Is(err, idempotency.ErrInFlight) },
				}
			})
		})
	}
}

// request runs fn as the handler of an HTTP request with this key.
func (b *bench) request(ctx context.Context, key string, fn func(context.Context)) {
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { fn(r.Context()) })
	cfg := idempotency.MiddlewareConfig{Wait: time.Second}
	serve(idempotency.ForCommands(b.store, scopeOf, cfg)(h), request(key, "/orders", "").WithContext(ctx))
}
