package resilience_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/surge-go/surge/resilience"
)

func ExampleDo() {
	p := resilience.Standard("stock")
	left, err := resilience.Do(context.Background(), p, func(context.Context) (int, error) { return 42, nil })
	fmt.Println(left, err)
	// Output: 42 <nil>
}

func ExampleDoOr() {
	p := resilience.Standard("recommendations")
	titles, err := resilience.DoOr(context.Background(), p,
		func(context.Context) ([]string, error) {
			return nil, resilience.WithOutcome(errors.New("gone"), resilience.Failed)
		},
		func(context.Context, error) ([]string, error) { return []string{"bestsellers"}, nil })
	fmt.Println(titles, err)
	// Output: [bestsellers] <nil>
}

func ExampleRun() {
	p := resilience.Standard("mail")
	err := resilience.Run(context.Background(), p, func(context.Context) error { return nil })
	fmt.Println(err)
	// Output: <nil>
}

func ExampleNew() {
	_, err := resilience.New("payments",
		resilience.NewBreaker(resilience.BreakerConfig{}),
		resilience.Retry(resilience.RetryConfig{}))
	why, _, _ := strings.Cut(err.Error(), ",")
	fmt.Println(why)
	// Output:
	// resilience: pipeline "payments": the breaker is outside of the retry: it would see whole calls only
}

func ExampleRetry() {
	p := resilience.Must(resilience.New("stock", resilience.Retry(resilience.RetryConfig{Min: time.Millisecond})))
	_ = resilience.Run(context.Background(), p, func(ctx context.Context) error {
		fmt.Println("try", resilience.Attempt(ctx))
		if resilience.Attempt(ctx) < 3 {
			return errors.New("down")
		}
		return nil
	})
	// Output:
	// try 1
	// try 2
	// try 3
}

func ExampleNewBreaker() {
	breaker := resilience.NewBreaker(resilience.BreakerConfig{Consecutive: 2, Cooldown: time.Minute})
	breaker.OnTransition(func(from, to resilience.State) { fmt.Println(from, "to", to) })
	p := resilience.Must(resilience.New("stock", breaker))
	for range 3 {
		err := resilience.Run(context.Background(), p, func(context.Context) error { return errors.New("down") })
		fmt.Println(err)
	}
	breaker.Reset() // an operator knows better
	// Output:
	// down
	// closed to open
	// down
	// resilience: stock: breaker: open
	// open to closed
}

func ExampleTimeout() {
	p := resilience.Must(resilience.New("stock", resilience.Timeout(10*time.Millisecond)))
	err := resilience.Run(context.Background(), p, func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	fmt.Println(err)
	// Output: resilience: timeout of 10ms: context deadline exceeded
}

func ExampleBulkhead() {
	p := resilience.Must(resilience.New("reports", resilience.Bulkhead(1, 0)))
	_ = resilience.Run(context.Background(), p, func(ctx context.Context) error {
		err := resilience.Run(ctx, p, func(context.Context) error { return nil })
		fmt.Println(err)
		return nil
	})
	// Output: resilience: reports: bulkhead: full
}

func ExampleRateLimit() {
	p := resilience.Must(resilience.New("geocoder", resilience.RateLimit(0.1, 1)))
	for range 2 {
		err := resilience.Run(context.Background(), p, func(context.Context) error { return nil })
		refusal, refused := errors.AsType[*resilience.RejectedError](err)
		fmt.Println(refused, refused && refusal.RetryAfter() > 9*time.Second)
	}
	// Output:
	// false false
	// true true
}

func ExampleAdaptiveLimit() {
	p := resilience.Must(resilience.New("search", resilience.AdaptiveLimit(1, 200)))
	fmt.Println(resilience.Run(context.Background(), p, func(context.Context) error { return nil }), p.Policies())
	// Output: <nil> [adaptive limit between 1 and 200]
}

func ExampleAdaptiveThrottle() {
	p := resilience.Must(resilience.New("search", resilience.AdaptiveThrottle(2)))
	ran := 0
	for range 10_000 {
		_ = resilience.Run(context.Background(), p, func(context.Context) error {
			ran++
			return errors.New("overloaded")
		})
	}
	fmt.Println("fewer than one in a hundred calls went out:", ran < 100)
	// Output: fewer than one in a hundred calls went out: true
}

func ExampleHedge() {
	p := resilience.Must(resilience.New("replica", resilience.Hedge(5*time.Millisecond, 2)))
	first := make(chan struct{}, 1)
	first <- struct{}{}
	got, err := resilience.Do(context.Background(), p, func(ctx context.Context) (string, error) {
		select {
		case <-first: // hangs
			<-ctx.Done()
			return "", ctx.Err()
		default:
			return "the second answers", nil
		}
	})
	fmt.Println(got, err)
	// Output: the second answers <nil>
}

func ExampleFallback() {
	p := resilience.Must(resilience.New("price",
		resilience.Fallback(func(context.Context, error) (int, error) { return 100, nil }),
		resilience.NewBreaker(resilience.BreakerConfig{})))
	fmt.Println(resilience.Do(context.Background(), p, func(context.Context) (int, error) {
		return 0, errors.New("down")
	}))
	// Output: 100 <nil>
}

func ExampleWrap() {
	audited := resilience.Wrap("audit", func(ctx context.Context, next func(context.Context) error) error {
		err := next(ctx)
		fmt.Println("audited:", err)
		return err
	})
	p := resilience.Must(resilience.New("payments", audited))
	_ = resilience.Run(context.Background(), p, func(context.Context) error { return nil })
	// Output: audited: <nil>
}

func ExampleOutcomeOf() {
	breaker := resilience.NewBreaker(resilience.BreakerConfig{Consecutive: 1})
	p := resilience.Must(resilience.New("payments",
		resilience.Retry(resilience.RetryConfig{Min: time.Millisecond}), breaker,
		resilience.Timeout(10*time.Millisecond)))
	err := resilience.Run(context.Background(), p, func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if tries, ok := errors.AsType[*resilience.RetryError](err); ok {
		fmt.Println(tries.Errs[0])
		fmt.Println(tries.Errs[1])
	}
	fmt.Println(resilience.OutcomeOf(err))
	// Output:
	// resilience: timeout of 10ms: context deadline exceeded
	// resilience: payments: breaker: open
	// in doubt
}

func ExampleRegistry() {
	var registry resilience.Registry
	if err := registry.Add(resilience.Standard("payments"), resilience.Standard("stock")); err != nil {
		panic(err)
	}
	if p, err := registry.Get("payments"); err == nil {
		p.ForceOpen()
	}
	for _, s := range registry.List() {
		fmt.Println(s.Name, s.State, s.Forced)
	}
	// Output:
	// payments open true
	// stock closed false
}

// A client that retries what is safe, stops calling a host that is down, and knows what became of a request.
func ExampleNewTransport() {
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests++; requests == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Printf("try %s: %s\n", r.Header.Get(resilience.HeaderAttempt), body)
	}))
	defer server.Close()

	payments := resilience.Must(resilience.New("payments",
		resilience.Timeout(5*time.Second), // the whole call
		resilience.Retry(resilience.RetryConfig{Min: time.Millisecond}),
		resilience.NewBreaker(resilience.BreakerConfig{}), // counts each try
		resilience.Timeout(time.Second),                   // each try
	))
	client := &http.Client{Transport: resilience.NewTransport(payments, resilience.TransportConfig{})}
	defer client.CloseIdleConnections()

	r, err := http.NewRequest(http.MethodPost, server.URL, strings.NewReader("1 EUR"))
	if err != nil {
		panic(err)
	}
	r.Header.Set("Idempotency-Key", "order-1")
	answer, err := client.Do(r)
	fmt.Println(resilience.HTTPOutcome(answer, err))
	if err == nil {
		_ = answer.Body.Close()
	}
	// Output:
	// try 2: 1 EUR
	// ok
}

func ExampleHandler() {
	p := resilience.Must(resilience.New("api", resilience.RateLimit(0.5, 1)))
	h := resilience.Handler(p, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for range 2 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		fmt.Printf("%d, Retry-After %q\n", w.Code, w.Header().Get("Retry-After"))
	}
	// Output:
	// 200, Retry-After ""
	// 429, Retry-After "2"
}
