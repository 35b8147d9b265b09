package order_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/examples/internal/unit"
	"github.com/surge-go/surge/examples/internal/unittest"
	"github.com/surge-go/surge/examples/order"
)

func open(ctx context.Context, c unit.Config) (*unit.Unit, error) {
	return order.Open(ctx, order.Config{Config: c, Prices: map[string]int64{"hat": 1500, "cap": 990}})
}

const hat = `{"card":"visa","lines":[{"sku":"hat","quantity":2}]}`

func TestPlaceAnswersWithALocation(t *testing.T) {
	t.Parallel()
	u := unittest.Run(t, open)
	a := unittest.Ask(t, u, "ann", "k-1", http.MethodPost, "/v1/orders", hat)
	if a.Status != 202 || a.JSON["total"] != 3000.0 || a.JSON["status"] != "pending" {
		t.Fatalf("%+v", a)
	}
	got := unittest.Ask(t, u, "ann", "", http.MethodGet, a.Header.Get("Location"), "")
	if got.Status != 200 || got.JSON["id"] != a.JSON["id"] {
		t.Fatalf("%+v", got)
	}
	other := unittest.Ask(t, u, "bob", "", http.MethodGet, a.Header.Get("Location"), "")
	if other.Status != 404 || other.Header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("somebody else's order: %+v", other)
	}
	if gauge := unittest.Ask(t, u, "", "", http.MethodGet, "/v1/backlog", ""); gauge.JSON["open"] != 1.0 {
		t.Fatalf("%+v", gauge)
	}
}

func TestTheSameRequestIsTheSameOrder(t *testing.T) {
	t.Parallel()
	u := unittest.Run(t, open)
	first := unittest.Ask(t, u, "ann", "k-1", http.MethodPost, "/v1/orders", hat)
	again := unittest.Ask(t, u, "ann", "k-1", http.MethodPost, "/v1/orders", hat)
	if again.Status != 202 || again.Body != first.Body || again.Header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("%+v, then %+v", first, again)
	}
	other := unittest.Ask(t, u, "ann", "k-1", http.MethodPost, "/v1/orders", strings.Replace(hat, "2", "3", 1))
	if other.Status != 422 {
		t.Errorf("the key with another request: %+v", other)
	}
	if bob := unittest.Ask(t, u, "bob", "k-1", http.MethodPost, "/v1/orders", hat); bob.JSON["id"] == first.JSON["id"] {
		t.Errorf("two customers share a key: %+v", bob)
	}
	page := unittest.Ask(t, u, "ann", "", http.MethodGet, "/v1/orders", "")
	if orders, ok := page.JSON["orders"].([]any); !ok || len(orders) != 1 {
		t.Errorf("%+v", page)
	}
}

// A key that was forgotten since must not make a second order.
func TestRule10_ReusedKeyMeetsItsOrder(t *testing.T) {
	t.Parallel()
	u := unittest.Run(t, open)
	first := unittest.Ask(t, u, "ann", "k-1", http.MethodPost, "/v1/orders", hat)
	if err := u.DB().Exec("DELETE FROM idempotency_keys").Error; err != nil {
		t.Fatal(err)
	}
	again := unittest.Ask(t, u, "ann", "k-1", http.MethodPost, "/v1/orders", hat)
	if again.Status != 202 || again.JSON["id"] != first.JSON["id"] {
		t.Fatalf("%+v, then %+v", first, again)
	}
}

func TestWhatIsRefused(t *testing.T) {
	t.Parallel()
	u := unittest.Run(t, open)
	for name, c := range map[string]struct {
		customer, key, body string
		status              int
	}{
		"nobody":           {"", "k-1", hat, 400},
		"no key":           {"ann", "", hat, 400},
		"not JSON":         {"ann", "k-2", `{`, 400},
		"an unknown field": {"ann", "k-3", `{"price":1}`, 400},
		"no such product":  {"ann", "k-4", `{"card":"visa","lines":[{"sku":"gold","quantity":1}]}`, 422},
		"no lines":         {"ann", "k-5", `{"card":"visa"}`, 422},
	} {
		a := unittest.Ask(t, u, c.customer, c.key, http.MethodPost, "/v1/orders", c.body)
		if a.Status/100 != 4 || c.customer != "" && a.Status != c.status ||
			a.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

func TestListGoesPageByPage(t *testing.T) {
	t.Parallel()
	u := unittest.Run(t, open)
	for _, key := range []string{"k-1", "k-2", "k-3"} {
		unittest.Ask(t, u, "ann", key, http.MethodPost, "/v1/orders", hat)
	}
	seen := map[any]bool{}
	path := "/v1/orders?limit=2"
	for range 2 {
		page := unittest.Ask(t, u, "ann", "", http.MethodGet, path, "")
		for _, o := range page.JSON["orders"].([]any) {
			seen[o.(map[string]any)["id"]] = true
		}
		next, _ := page.JSON["next"].(string)
		path = "/v1/orders?limit=2&cursor=" + next
	}
	if len(seen) != 3 || path != "/v1/orders?limit=2&cursor=" {
		t.Fatalf("%v, %s", seen, path)
	}
	if a := unittest.Ask(t, u, "ann", "", http.MethodGet, "/v1/orders?limit=0", ""); a.Status != 400 {
		t.Errorf("%+v", a)
	}
	if a := unittest.Ask(t, u, "ann", "", http.MethodGet, "/v1/orders?cursor=@", ""); a.Status != 422 {
		t.Errorf("%+v", a)
	}
}

func TestRule24_OnlyTheSagaCloses(t *testing.T) {
	t.Parallel()
	u := unittest.Run(t, open)
	placed := unittest.Ask(t, u, "ann", "k-1", http.MethodPost, "/v1/orders", hat)
	id, _ := placed.JSON["id"].(string)
	cancel := unittest.Ask(t, u, "ann", "k-2", http.MethodPost, "/v1/orders/"+id+"/cancel", "")
	if cancel.Status != 202 || cancel.JSON["status"] != "pending" {
		t.Fatalf("%+v", cancel)
	}
	if a := unittest.Ask(t, u, "bob", "k-3", http.MethodPost, "/v1/orders/"+id+"/cancel", ""); a.Status != 404 {
		t.Errorf("somebody else: %+v", a)
	}
	for range 2 {
		if _, err := cqrs.Execute(t.Context(), u.Processor, contracts.CancelOrder{OrderID: id}); err != nil {
			t.Fatal(err)
		}
	}
	if got := unittest.Ask(t, u, "ann", "", http.MethodGet, "/v1/orders/"+id, ""); got.JSON["status"] != "cancelled" {
		t.Fatalf("%+v", got)
	}
	if _, err := cqrs.Execute(t.Context(), u.Processor, contracts.ConfirmOrder{OrderID: id}); err == nil {
		t.Fatal("a cancelled order was confirmed")
	}
}
