package payment_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/surge-go/surge/examples/internal/unittest"
	"github.com/surge-go/surge/examples/payment"
	"github.com/surge-go/surge/resilience"
	"github.com/surge-go/surge/resilience/chaos"
)

// becomes waits until a payment has a status.
func (f *fixture) becomes(t *testing.T, id, status string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		a := unittest.Ask(t, f.Unit, "ann", "", http.MethodGet, "/v1/payments/"+id, "")
		if a.JSON["status"] == status {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s is not %s: %+v", id, status, a)
		}
	}
}

// A client that is cut off from the answer may never come back. What it began is finished all the same, once.
func TestRule28_WhatNobodyWaitsForIsSettled(t *testing.T) {
	t.Parallel()
	f := startWith(t, payment.Config{Sweep: 20 * time.Millisecond, Patience: 500 * time.Millisecond})
	must := func(key, path, body string) {
		t.Helper()
		if a := f.post(t, key, path, body); a.Status/100 != 2 {
			t.Fatalf("%s: %+v", path, a)
		}
	}
	for _, id := range []string{"o-1", "o-2", "o-3"} {
		must("authorize-"+id, "/v1/payments", `{"order_id":"`+id+`","card":"visa","amount":3990}`)
	}
	must("capture-o-3", "/v1/payments/o-3/capture", "")
	if err := f.faults.Set(chaos.Fault{Rate: 1, Outcome: resilience.InDoubt}); err != nil {
		t.Fatal(err)
	}
	for key, path := range map[string]string{
		"k-0": "/v1/payments", "k-1": "/v1/payments/o-1/capture", "k-2": "/v1/payments/o-2/void",
		"k-3": "/v1/payments/o-3/refund",
	} {
		body := ""
		if path == "/v1/payments" {
			body = `{"order_id":"o-0","card":"visa","amount":3990}`
		}
		if a := f.post(t, key, path, body); a.Status != 503 {
			t.Fatalf("%s: %+v", path, a)
		}
	}
	if err := f.faults.Set(); err != nil {
		t.Fatal(err)
	}
	f.becomes(t, "o-0", "authorized")
	f.becomes(t, "o-1", "captured")
	f.becomes(t, "o-2", "voided")
	f.becomes(t, "o-3", "refunded")
	for operation, want := range map[string]int{"authorize": 4, "capture": 2, "void": 1, "refund": 1} {
		if n := f.count(t, operation); n != want {
			t.Errorf("%s: the bank has %d, want %d", operation, n, want)
		}
	}
	must("k-1", "/v1/payments/o-1/capture", "") // it comes back after all
	must("k-4", "/v1/payments/o-1/refund", "")
}
