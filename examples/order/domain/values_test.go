package domain_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/surge-go/surge/examples/order/domain"
)

func TestRule10_OrderIDFollowsFromTheRequest(t *testing.T) {
	t.Parallel()
	a := domain.NewOrderID("ann", "place", "k-1")
	if b := domain.NewOrderID("ann", "place", "k-1"); a != b {
		t.Fatalf("the same request has two IDs: %s, %s", a, b)
	}
	others := []domain.OrderID{
		domain.NewOrderID("bob", "place", "k-1"), domain.NewOrderID("ann", "cancel", "k-1"),
		domain.NewOrderID("ann", "place", "k-2"), domain.NewOrderID("an", "nplace", "k-1"),
		domain.RandomOrderID(), domain.RandomOrderID(),
	}
	seen := map[domain.OrderID]bool{a: true}
	for _, o := range others {
		if seen[o] {
			t.Errorf("%s stands for two requests", o)
		}
		seen[o] = true
	}
	if len(a) != 24 || strings.ToLower(string(a)) != string(a) {
		t.Errorf("an ID that is awkward in a path: %s", a)
	}
}

func TestValuesRefuse(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"no customer":       second(domain.NewCustomerID("")),
		"long customer":     second(domain.NewCustomerID(strings.Repeat("x", 101))),
		"no sku":            second(domain.NewSKU("")),
		"blank in sku":      second(domain.NewSKU("red hat")),
		"no quantity":       second(domain.NewQuantity(0)),
		"absurd quantity":   second(domain.NewQuantity(domain.MaxQuantity + 1)),
		"negative amount":   second(domain.NewMoney(-1)),
		"negative price":    second(domain.NewLine("hat", 1, -1)),
		"overflow by plus":  second(domain.Money(math.MaxInt64).Plus(1)),
		"overflow by times": second(domain.Money(math.MaxInt64 / 2).Times(3)),
	} {
		if !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
