package shipping_test

import (
	"net/http"
	"testing"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/examples/internal/unittest"
	"github.com/surge-go/surge/examples/shipping"
)

func TestShipmentIsPreparedAndSentOnce(t *testing.T) {
	t.Parallel()
	u := unittest.Run(t, shipping.Open)
	ctx := t.Context()
	create := contracts.CreateShipment{OrderID: "o-1", Customer: "ann", Units: 12}
	for range 2 {
		if _, err := cqrs.Execute(ctx, u.Processor, create); err != nil {
			t.Fatal(err)
		}
	}
	get := func() unittest.Answer {
		return unittest.Ask(t, u, "", "", http.MethodGet, "/v1/shipments/o-1", "")
	}
	if a := get(); a.JSON["status"] != "prepared" || a.JSON["parcels"] != 2.0 {
		t.Fatalf("%+v", a)
	}
	if _, err := cqrs.Execute(ctx, u.Processor, contracts.DispatchShipment{OrderID: "o-1"}); err != nil {
		t.Fatal(err)
	}
	if a := get(); a.JSON["status"] != "dispatched" || a.JSON["dispatched_at"] == nil {
		t.Fatalf("%+v", a)
	}
	if _, err := cqrs.Execute(ctx, u.Processor, contracts.RecallShipment{OrderID: "o-1"}); err != nil {
		t.Fatal(err)
	}
	if a := get(); a.JSON["status"] != "returned" {
		t.Fatalf("%+v", a)
	}
	if _, err := cqrs.Execute(ctx, u.Processor, contracts.DispatchShipment{OrderID: "o-1"}); err == nil {
		t.Fatal("a returned shipment was sent")
	}
}

func TestWhatCannotBeSentIsRefused(t *testing.T) {
	t.Parallel()
	u := unittest.Run(t, shipping.Open)
	_, err := cqrs.Execute(t.Context(), u.Processor, contracts.CreateShipment{OrderID: "o-1", Customer: "ann"})
	if no := cqrs.AsRejection(err); no == nil || no.Code != "invalid" {
		t.Fatalf("got %v", err)
	}
	for _, path := range []string{"/v1/shipments/o-1", "/v1/sagas/o-1"} {
		if a := unittest.Ask(t, u, "", "", http.MethodGet, path, ""); a.Status != 404 {
			t.Errorf("%s: %+v", path, a)
		}
	}
	if a := unittest.Ask(t, u, "", "", http.MethodGet, "/readyz", ""); a.Status != 204 {
		t.Errorf("%+v", a)
	}
}
