package payment_test

import (
	"context"
	"database/sql"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/examples/internal/bank"
	"github.com/surge-go/surge/examples/internal/unit"
	"github.com/surge-go/surge/examples/internal/unittest"
	"github.com/surge-go/surge/examples/payment"
	"github.com/surge-go/surge/resilience"
	"github.com/surge-go/surge/resilience/chaos"
)

type fixture struct {
	*unit.Unit
	faults *chaos.Injector // between the service and the bank
	ledger string
}

func start(t *testing.T) *fixture {
	t.Helper()
	return startWith(t, payment.Config{})
}

func startWith(t *testing.T, cfg payment.Config) *fixture {
	t.Helper()
	ledger := filepath.Join(t.TempDir(), "bank.db")
	b, err := bank.Open(t.Context(), ledger)
	if err != nil {
		t.Fatal(err)
	}
	faults, err := chaos.New(chaos.Config{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(faults.Handler(b))
	t.Cleanup(func() {
		s.CloseClientConnections()
		_ = b.Close()
		s.Close()
	})
	u := unittest.Run(t, func(ctx context.Context, c unit.Config) (*unit.Unit, error) {
		cfg.Config, cfg.Bank = c, s.URL
		return payment.Open(ctx, cfg)
	})
	return &fixture{u, faults, ledger}
}

func (f *fixture) post(t *testing.T, key, path, body string) unittest.Answer {
	t.Helper()
	return unittest.Ask(t, f.Unit, "ann", key, http.MethodPost, path, body)
}

func (f *fixture) count(t *testing.T, operation string) (n int) {
	t.Helper()
	db, err := sql.Open("sqlite", f.ledger)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	row := db.QueryRowContext(t.Context(), `SELECT count(*) FROM ledger WHERE operation = ? AND refused = ''`, operation)
	if err := row.Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

const visa = `{"order_id":"o-1","card":"visa","amount":3990}`

func TestMoneyGoesAndComesBackOnce(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, step := range []struct{ key, path, body, status string }{
		{"k-1", "/v1/payments", visa, "authorized"},
		{"k-1", "/v1/payments", visa, "authorized"},
		{"k-2", "/v1/payments/o-1/capture", "", "captured"},
		{"k-2", "/v1/payments/o-1/capture", "", "captured"},
		{"k-3", "/v1/payments/o-1/refund", "", "refunded"},
	} {
		if a := f.post(t, step.key, step.path, step.body); a.Status/100 != 2 || a.JSON["status"] != step.status {
			t.Fatalf("%s: %+v", step.path, a)
		}
	}
	if f.count(t, "authorize") != 1 || f.count(t, "capture") != 1 || f.count(t, "refund") != 1 {
		t.Fatal("the bank heard more than once")
	}
	if a := f.post(t, "k-4", "/v1/payments/o-1/capture", ""); a.Status != 409 {
		t.Errorf("captured after a refund: %+v", a)
	}
	got := unittest.Ask(t, f.Unit, "ann", "", http.MethodGet, "/v1/payments/o-1", "")
	if got.JSON["status"] != "refunded" || got.JSON["amount"] != 3990.0 {
		t.Errorf("%+v", got)
	}
}

// An order has one payment. Who asks for another is told so, under whatever key.
func TestAnotherPaymentForTheSameOrderIsRefused(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, step := range []struct {
		key, body string
		status    int
	}{
		{"k-1", visa, 201},
		{"k-2", `{"order_id":"o-1","card":"visa","amount":5000}`, 409},
		{"k-3", `{"order_id":"o-1","card":"another","amount":3990}`, 409},
		{"k-4", visa, 201},
	} {
		if a := f.post(t, step.key, "/v1/payments", step.body); a.Status != step.status {
			t.Errorf("%s: %+v", step.body, a)
		}
	}
	if n := f.count(t, "authorize"); n != 1 {
		t.Errorf("the bank has %d", n)
	}
}

func TestDeclinedIsAnAnswer(t *testing.T) {
	t.Parallel()
	f := start(t)
	a := f.post(t, "k-1", "/v1/payments", `{"order_id":"o-1","card":"declined-1","amount":5}`)
	if a.Status != 409 || a.JSON["code"] != "declined" {
		t.Fatalf("%+v", a)
	}
	again := f.post(t, "k-1", "/v1/payments", `{"order_id":"o-1","card":"declined-1","amount":5}`)
	if again.Body != a.Body {
		t.Errorf("another answer: %+v", again)
	}
	if v := f.post(t, "k-2", "/v1/payments/o-1/void", ""); v.Status != 409 {
		t.Errorf("there is nothing to void: %+v", v)
	}
}

func TestRule28_BankThatForgetsToAnswerChargesOnce(t *testing.T) {
	t.Parallel()
	f := start(t)
	if a := f.post(t, "k-1", "/v1/payments", visa); a.Status != 201 {
		t.Fatalf("%+v", a)
	}
	if err := f.faults.Set(chaos.Fault{Rate: 1, Outcome: resilience.InDoubt}); err != nil {
		t.Fatal(err)
	}
	for tries := 0; f.count(t, "capture") == 0 && tries < 50; tries++ { // every other request is cut before the charge
		if a := f.post(t, "k-2", "/v1/payments/o-1/capture", ""); a.Status != 503 {
			t.Fatalf("%+v", a)
		}
	}
	if n := f.count(t, "capture"); n != 1 {
		t.Fatalf("charged %d times, and nobody was told", n)
	}
	f.faults.Switch(false)
	if a := f.post(t, "k-2", "/v1/payments/o-1/capture", ""); a.Status != 200 || a.JSON["status"] != "captured" {
		t.Fatalf("%+v", a)
	}
	if n := f.count(t, "capture"); n != 1 {
		t.Fatalf("charged %d times", n)
	}
}

// That another operation is under way is no answer to keep under the key: it passes.
func TestBusyIsForLater(t *testing.T) {
	t.Parallel()
	f := startWith(t, payment.Config{Sweep: 20 * time.Millisecond, Patience: 500 * time.Millisecond})
	if err := f.faults.Set(chaos.Fault{Rate: 1, Outcome: resilience.NotExecuted}); err != nil {
		t.Fatal(err)
	}
	if a := f.post(t, "k-1", "/v1/payments", visa); a.Status != 503 {
		t.Fatalf("%+v", a)
	}
	a := f.post(t, "k-2", "/v1/payments/o-1/void", "")
	if a.Status != 503 || a.Header.Get("Retry-After") == "" || strings.Contains(a.Body, "cqrs") {
		t.Fatalf("%+v", a)
	}
	if err := f.faults.Set(); err != nil {
		t.Fatal(err)
	}
	f.becomes(t, "o-1", "authorized")
	if a := f.post(t, "k-2", "/v1/payments/o-1/void", ""); a.Status != 200 || a.JSON["status"] != "voided" {
		t.Errorf("%+v", a)
	}
}

func TestKeyIsRequired(t *testing.T) {
	t.Parallel()
	f := start(t)
	if a := f.post(t, "", "/v1/payments", visa); a.Status != 400 {
		t.Errorf("%+v", a)
	}
	if a := f.post(t, "k-1", "/v1/payments", `{"order_id":"o-1","card":"visa","amount":-1}`); a.Status != 422 {
		t.Errorf("%+v", a)
	}
	if a := f.post(t, "k-2", "/v1/payments/o-9/capture", ""); a.Status != 404 {
		t.Errorf("%+v", a)
	}
}
