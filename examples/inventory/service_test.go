package inventory_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/examples/internal/unit"
	"github.com/surge-go/surge/examples/internal/unittest"
	"github.com/surge-go/surge/examples/inventory"
	"github.com/surge-go/surge/examples/inventory/app"
)

func open(naive bool) func(context.Context, unit.Config) (*unit.Unit, error) {
	return func(ctx context.Context, c unit.Config) (*unit.Unit, error) {
		c.Unsafe.Stock = naive
		return inventory.Open(ctx, inventory.Config{Config: c, Stock: map[string]int{"hat": 10, "cap": 5}})
	}
}

func reserve(ctx context.Context, u *unit.Unit, id string, lines ...contracts.Line) error {
	_, err := cqrs.Execute(ctx, u.Processor, contracts.ReserveStock{OrderID: id, Lines: lines})
	return err
}

func free(t *testing.T, u *unit.Unit, sku string) float64 {
	t.Helper()
	a := unittest.Ask(t, u, "", "", http.MethodGet, "/v1/products/"+sku+"/availability", "")
	n, ok := a.JSON["free"].(float64)
	if !ok {
		t.Fatalf("%+v", a)
	}
	return n
}

// rush lets a hundred orders want a hat at once, and returns how many got one.
func rush(t *testing.T, u *unit.Unit) int64 {
	t.Helper()
	var got atomic.Int64
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			err := reserve(t.Context(), u, fmt.Sprintf("o-%d", i), contracts.Line{SKU: "hat", Quantity: 1})
			no := cqrs.AsRejection(err)
			switch {
			case err == nil:
				got.Add(1)
			case no == nil || no.Code != contracts.SoldOut:
				t.Errorf("order %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	return got.Load()
}

func TestRushSellsWhatThereIs(t *testing.T) {
	t.Parallel()
	u := unittest.Run(t, open(false))
	if got := rush(t, u); got != 10 || free(t, u, "hat") != 0 {
		t.Fatalf("%d got a hat, %v are left", got, free(t, u, "hat"))
	}
}

func TestNaiveShelfOversells(t *testing.T) {
	t.Parallel()
	u := unittest.Run(t, open(true))
	if got := rush(t, u); got <= 10 {
		t.Fatalf("only %d got a hat: the switch does nothing", got)
	}
}

func TestAllLinesOrNone(t *testing.T) {
	t.Parallel()
	u := unittest.Run(t, open(false))
	err := reserve(t.Context(), u, "o-1",
		contracts.Line{SKU: "hat", Quantity: 1}, contracts.Line{SKU: "cap", Quantity: 6})
	if no := cqrs.AsRejection(err); no == nil || no.Code != contracts.SoldOut {
		t.Fatalf("got %v", err)
	}
	if free(t, u, "hat") != 10 || free(t, u, "cap") != 5 {
		t.Fatal("a part of the order was taken")
	}
}

func TestUnitsComeAndGoOnce(t *testing.T) {
	t.Parallel()
	u := unittest.Run(t, open(false))
	ctx := t.Context()
	line := contracts.Line{SKU: "hat", Quantity: 3}
	for range 2 {
		if err := reserve(ctx, u, "o-1", line); err != nil {
			t.Fatal(err)
		}
	}
	if n := free(t, u, "hat"); n != 7 {
		t.Fatalf("reserved twice: %v are left", n)
	}
	for range 2 {
		if _, err := cqrs.Execute(ctx, u.Processor, contracts.CommitStock{OrderID: "o-1"}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := cqrs.Execute(ctx, u.Processor, contracts.ReturnStock{OrderID: "o-1"}); err != nil {
			t.Fatal(err)
		}
	}
	if n := free(t, u, "hat"); n != 10 {
		t.Fatalf("returned: %v are there", n)
	}
	if _, err := cqrs.Execute(ctx, u.Processor, contracts.CommitStock{OrderID: "o-1"}); err == nil {
		t.Fatal("returned goods were sold")
	}
	if _, err := cqrs.Execute(ctx, u.Processor, contracts.ReturnStock{OrderID: "o-9"}); err != nil {
		t.Fatalf("nothing to return: %v", err)
	}
}

// The order that took the last units is not told that they are sold out, and once it gave them up nothing is held for
// it any more.
func TestReserveAgainIsAboutTheOrdersOwnUnits(t *testing.T) {
	t.Parallel()
	u := unittest.Run(t, open(false))
	line := contracts.Line{SKU: "cap", Quantity: 5}
	for range 2 {
		if err := reserve(t.Context(), u, "o-1", line); err != nil {
			t.Fatal(err)
		}
	}
	if err := cqrs.AsRejection(reserve(t.Context(), u, "o-2", line)); err == nil || err.Code != contracts.SoldOut {
		t.Errorf("another order: %v", err)
	}
	if _, err := cqrs.Execute(t.Context(), u.Processor, contracts.ReturnStock{OrderID: "o-1"}); err != nil {
		t.Fatal(err)
	}
	if err := cqrs.AsRejection(reserve(t.Context(), u, "o-1", line)); err == nil || err.Code != app.WrongState {
		t.Errorf("after it was given up: %v", err)
	}
	if n := free(t, u, "cap"); n != 5 {
		t.Errorf("%v are free", n)
	}
}

func TestStockIsSetByTheDifference(t *testing.T) {
	t.Parallel()
	u := unittest.Run(t, open(false))
	if err := reserve(t.Context(), u, "o-1", contracts.Line{SKU: "hat", Quantity: 4}); err != nil {
		t.Fatal(err)
	}
	a := unittest.Ask(t, u, "", "", http.MethodPut, "/v1/products/hat/stock", `{"units":20}`)
	if a.Status != 200 || a.JSON["free"] != 16.0 {
		t.Errorf("%+v", a)
	}
	a = unittest.Ask(t, u, "", "", http.MethodPut, "/v1/products/hat/stock", `{"units":3}`)
	if a.Status != 409 || free(t, u, "hat") != 16 {
		t.Errorf("fewer than are sold: %+v", a)
	}
	if a = unittest.Ask(t, u, "", "", http.MethodPut, "/v1/products/hat/stock", `{"units":-1}`); a.Status != 422 {
		t.Errorf("%+v", a)
	}
	if a = unittest.Ask(t, u, "", "", http.MethodGet, "/v1/products/gold/availability", ""); a.Status != 404 {
		t.Errorf("%+v", a)
	}
	list := unittest.Ask(t, u, "", "", http.MethodGet, "/v1/products", "")
	if products, ok := list.JSON["products"].([]any); !ok || len(products) != 2 {
		t.Errorf("%+v", list)
	}
}
