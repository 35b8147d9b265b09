package idempotency_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/glebarez/sqlite"
	"gorm.io/gorm"

	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox/uow"
)

// open returns a unit of work and a store on a fresh database in memory, with a table of orders.
func open() (work *uow.UnitOfWork, store *idempotency.GormStore, done func() error) {
	db, err := gorm.Open(sqlite.Open(":memory:"), &gorm.Config{SkipDefaultTransaction: true})
	check(err)
	work, err = uow.New(db, uow.Config{})
	check(err)
	check(idempotency.Migrate(context.Background(), db))
	check(db.Exec("CREATE TABLE orders (id TEXT PRIMARY KEY)").Error)
	store, err = idempotency.NewGormStore(work, idempotency.StoreConfig{})
	check(err)
	pool, err := db.DB()
	check(err)
	return work, store, pool.Close
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// customer names the authenticated principal; a real one reads it from a verified token.
func customer(*http.Request) (string, error) { return "alice", nil }

// post sends a request under a key and prints the answer.
func post(h http.Handler, key, body string) {
	r := httptest.NewRequest(http.MethodPost, "/orders", strings.NewReader(body))
	r.Header.Set("Idempotency-Key", key)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Header().Get("Content-Type") == "application/problem+json" {
		fmt.Println(w.Code, "with a problem detail")
		return
	}
	fmt.Printf("%d %s replayed=%t\n", w.Code, w.Body, w.Header().Get("Idempotent-Replayed") == "true")
}

// With package cqrs the body of the handler is one call of cqrs.Execute, which does what placeOrder does here.
func ExampleForCommands() {
	work, store, done := open()
	defer func() { check(done()) }()
	placeOrder := func(ctx context.Context, sku string) (receipt string, err error) {
		err = work.Do(ctx, func(ctx context.Context) error {
			return store.Once(ctx, &receipt, func(ctx context.Context) error {
				receipt = "one " + sku
				return uow.DB(ctx).Exec("INSERT INTO orders VALUES (?)", sku).Error
			})
		})
		return receipt, err
	}
	h := idempotency.ForCommands(store, customer, idempotency.MiddlewareConfig{})(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			receipt, err := placeOrder(r.Context(), "lamp")
			if err != nil {
				http.Error(w, "try again", http.StatusServiceUnavailable)
				return
			}
			w.WriteHeader(http.StatusAccepted)
			_, _ = fmt.Fprint(w, receipt)
		}))
	post(h, "k-1", `{"sku":"lamp"}`)
	post(h, `"k-1"`, `{"sku":"lamp"}`)
	post(h, "k-1", `{"sku":"chair"}`)
	// Output:
	// 202 one lamp replayed=false
	// 202 one lamp replayed=true
	// 422 with a problem detail
}

// Any handler that works in the database alone: what it writes, the key and the answer commit together.
func ExampleMiddlewareTx() {
	_, store, done := open()
	defer func() { check(done()) }()
	h := idempotency.MiddlewareTx(store, customer, idempotency.MiddlewareConfig{})(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			key, _ := idempotency.KeyFrom(r.Context())
			id := key.UUID("order")
			if err := uow.DB(r.Context()).Exec("INSERT INTO orders VALUES (?)", id).Error; err != nil {
				http.Error(w, "try again", http.StatusInternalServerError)
				return
			}
			w.WriteHeader(http.StatusCreated)
			_, _ = fmt.Fprint(w, "order ", id[:8])
		}))
	post(h, "k-1", "{}")
	post(h, "k-1", "{}")
	// Output:
	// 201 order c342ce53 replayed=false
	// 201 order c342ce53 replayed=true
}

// A handler with an effect elsewhere holds a lease. Here the first attempt is lost after the card was charged; the
// retry takes over and does not charge again.
func ExampleMiddleware() {
	_, store, done := open()
	defer func() { check(done()) }()
	crash := true
	charge := func(_ context.Context, key string) (string, error) { // calls the provider with its own key
		fmt.Println("charging under", key[:8])
		return "ch_1", nil
	}
	h := idempotency.Middleware(store, customer, idempotency.MiddlewareConfig{
		Steps: true, OnUnknown: idempotency.Reexecute,
	})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := idempotency.Step(r.Context(), idempotency.AttemptFrom(r.Context()), "charge", charge)
		if err != nil || crash {
			crash = false
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = fmt.Fprint(w, id)
	}))
	post(h, "k-1", "{}")
	post(h, "k-1", "{}")
	post(h, "k-1", "{}")
	// Output:
	// charging under 80a0fe64
	// 502  replayed=false
	// 201 ch_1 replayed=false
	// 201 ch_1 replayed=true
}

func ExampleDo() {
	_, store, done := open()
	defer func() { check(done()) }()
	key := idempotency.Key{Scope: "alice", Operation: "refund", ID: "order-7"}
	down := true
	refund := func(ctx context.Context, a *idempotency.Attempt) (string, error) {
		id, err := idempotency.Step(ctx, a, "refund", func(_ context.Context, _ string) (string, error) {
			fmt.Println("refunding")
			return "re_1", nil
		})
		if err != nil {
			return "", err
		}
		_, err = idempotency.Step(ctx, a, "mail", func(_ context.Context, _ string) (bool, error) {
			if down {
				return false, errors.New("mail server is down")
			}
			return true, nil
		})
		return id, err
	}
	_, _, err := idempotency.Do(context.Background(), store, key, "10 EUR", refund)
	fmt.Println(err)
	down = false
	id, info, err := idempotency.Do(context.Background(), store, key, "10 EUR", refund)
	fmt.Println(id, info.Recovered, err)
	id, info, err = idempotency.Do(context.Background(), store, key, "10 EUR", refund)
	fmt.Println(id, info.Replayed, err)
	// Output:
	// refunding
	// mail server is down
	// re_1 true <nil>
	// re_1 true <nil>
}

func ExampleDoTx() {
	_, store, done := open()
	defer func() { check(done()) }()
	key := idempotency.Key{Scope: "import", Operation: "order", ID: "line-12"}
	place := func(ctx context.Context) (string, error) {
		return "placed", uow.DB(ctx).Exec("INSERT INTO orders VALUES ('o-12')").Error
	}
	for range 2 {
		result, info, err := idempotency.DoTx(context.Background(), store, key, "lamp", place)
		fmt.Println(result, info.Replayed, err)
	}
	_, _, err := idempotency.DoTx(context.Background(), store, key, "chair", place)
	fmt.Println(err)
	// Output:
	// placed false <nil>
	// placed true <nil>
	// idempotency: key reused with another request
}

// A consumer that gets a message twice handles it once: the claim commits with the work.
func ExampleInbox() {
	work, _, done := open()
	defer func() { check(done()) }()
	inbox := idempotency.NewInbox(idempotency.InboxConfig{})
	handle := func(ids ...string) {
		err := work.Do(context.Background(), func(ctx context.Context) error {
			fresh, err := inbox.Claim(ctx, "billing", ids)
			if err != nil {
				return err
			}
			for i, id := range ids {
				fmt.Println(id, fresh[i])
			}
			return nil
		})
		check(err)
	}
	handle("m-1", "m-2")
	handle("m-2", "m-3")
	// Output:
	// m-1 true
	// m-2 true
	// m-2 false
	// m-3 true
}

func ExampleSweeper() {
	work, store, done := open()
	defer func() { check(done()) }()
	sweeper, err := idempotency.NewSweeper(work, idempotency.SweeperConfig{}, store,
		idempotency.NewInbox(idempotency.InboxConfig{}))
	check(err)
	ctx, stop := context.WithCancel(context.Background())
	stop() // a service runs it until it shuts down
	fmt.Println(sweeper.Run(ctx))
	// Output: <nil>
}

func ExampleParseKey() {
	for _, header := range []string{`"8e03978e"`, `8e03978e`, `8e0, 3978e`} {
		id, err := idempotency.ParseKey(header)
		fmt.Println(id, err)
	}
	// Output:
	// 8e03978e <nil>
	// 8e03978e <nil>
	//  idempotency: malformed key: character ',' is not allowed in a bare key
}
