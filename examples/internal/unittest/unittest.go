// Package unittest runs one service of the shop alone, for tests.
package unittest

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/surge-go/surge/cqrs/localbus"
	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/examples/internal/unit"
	"github.com/surge-go/surge/examples/internal/web"
)

// Run opens a service on a fresh file and runs it until the test ends.
func Run(t testing.TB, open func(context.Context, unit.Config) (*unit.Unit, error)) *unit.Unit {
	t.Helper()
	bus := localbus.New(localbus.Config{Discard: true})
	u, err := open(t.Context(), unit.Config{
		Name: "service", Path: filepath.Join(t.TempDir(), "service.db"), Bus: bus, Catalog: contracts.Catalog(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := u.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if err := bus.Close(); err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return u
}

// Answer is what a service said.
type Answer struct {
	Status int
	Header http.Header
	Body   string
	JSON   map[string]any // nil if the body is none
}

// Ask sends a request to a service, as a customer, under a key; either may be "".
func Ask(t testing.TB, u *unit.Unit, customer, key, method, path, body string) Answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+u.Addr()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if customer != "" {
		r.Header.Set(web.HeaderCustomer, customer)
	}
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := Answer{Status: res.StatusCode, Header: res.Header, Body: string(b)}
	_ = json.Unmarshal(b, &a.JSON) // or it stays nil
	return a
}
