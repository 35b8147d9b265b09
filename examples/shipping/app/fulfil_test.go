package app_test

import (
	"strings"
	"testing"

	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/examples/shipping/app"
	"github.com/surge-go/surge/saga/sagatest"
)

func begun() app.Fulfilment {
	_, f := app.Begin(contracts.OrderPlaced{
		OrderID: "o-1", Customer: "ann", Card: "visa", Total: 3990,
		Lines: []contracts.Line{{SKU: "hat", Quantity: 2}, {SKU: "cap", Quantity: 1}},
	})
	return f
}

// Every history of an order: answers, silence, duplicates, crashes, and a customer who cancels at any moment.
func TestFulfilKeepsItsPromisesInEveryHistory(t *testing.T) {
	t.Parallel()
	sagatest.Explore(t, app.Fulfil, begun())
}

func TestFulfilIsDrawn(t *testing.T) {
	t.Parallel()
	picture := app.Fulfil.Mermaid()
	for _, step := range []string{"reserve-stock", "capture-payment", "refund-payment"} {
		if !strings.Contains(picture, step) {
			t.Errorf("%s is not in the picture:\n%s", step, picture)
		}
	}
}
