package bank_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/surge-go/surge/examples/internal/bank"
)

type client struct {
	t    *testing.T
	url  string
	bank *bank.Bank
	path string
}

func start(t *testing.T) *client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bank.db")
	b, err := bank.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(b)
	t.Cleanup(func() {
		s.CloseClientConnections()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		s.Close()
	})
	return &client{t: t, url: s.URL, bank: b, path: path}
}

type answer struct {
	Name, Refused string
	Status        int
}

func (c *client) try(ctx context.Context, key, body string) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/v1/operations", strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	a := answer{Status: res.StatusCode}
	if res.StatusCode == http.StatusOK {
		err = json.NewDecoder(res.Body).Decode(&a)
	}
	return a, err
}

func (c *client) do(key, body string) answer {
	c.t.Helper()
	a, err := c.try(c.t.Context(), key, body)
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

func (c *client) rows(where string) (n int) {
	c.t.Helper()
	db, err := sql.Open("sqlite", c.path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.QueryRowContext(c.t.Context(), "SELECT count(*) FROM ledger WHERE "+where).Scan(&n); err != nil {
		c.t.Fatal(err)
	}
	return n
}

const authorize = `{"operation":"authorize","reference":"o-1","card":"visa","amount":100}`

func capture(of string) string {
	return fmt.Sprintf(`{"operation":"capture","reference":"o-1","amount":100,"of":%q}`, of)
}

func TestKeyMakesItHappenOnce(t *testing.T) {
	t.Parallel()
	c := start(t)
	auth := c.do("k-1", authorize)
	first := c.do("k-2", capture(auth.Name))
	if again := c.do("k-2", capture(auth.Name)); again != first || first.Refused != "" {
		t.Fatalf("%+v, then %+v", first, again)
	}
	if n := c.rows("operation = 'capture'"); n != 1 {
		t.Fatalf("%d captures", n)
	}
	if a := c.do("k-2", `{"operation":"capture","reference":"o-2","amount":100,"of":"authorize-1"}`); a.Status != 422 {
		t.Fatalf("the key with another request: %+v", a)
	}
}

func TestWithoutKeyItHappensAgain(t *testing.T) {
	t.Parallel()
	c := start(t)
	auth := c.do("", authorize)
	a, b := c.do("", capture(auth.Name)), c.do("", capture(auth.Name))
	if a.Refused != "" || b.Refused != "" || c.rows("operation = 'capture' AND refused = ''") != 2 {
		t.Fatalf("charged once only: %+v, %+v", a, b)
	}
}

func TestBankRefuses(t *testing.T) {
	t.Parallel()
	c := start(t)
	auth := c.do("a", authorize)
	for body, want := range map[string]string{
		`{"operation":"authorize","reference":"o-1","card":"declined-1","amount":100}`: "insufficient_funds",
		capture("authorize-99"): "unknown_authorize",
		`{"operation":"capture","reference":"o-1","amount":101,"of":"` + auth.Name + `"}`:       "not_possible",
		`{"operation":"refund","reference":"o-1","amount":100,"of":"` + auth.Name + `"}`:        "not_possible",
		`{"operation":"void","reference":"o-1","amount":100,"of":"nonsense"}`:                   "unknown_authorize",
		`{"operation":"void","reference":"o-1","amount":100,"of":"` + auth.Name + `"}`:          "",
		`{"operation":"authorize","reference":"o-1","card":"visa","amount":100,"of":"ignored"}`: "",
	} {
		if a := c.do("", body); a.Status != 200 || a.Refused != want {
			t.Errorf("%s: %+v, want %q", body, a, want)
		}
	}
	for _, body := range []string{`{`, `{"operation":"steal"}`, `{"operation":"void","reference":"o-1"}`} {
		if a := c.do("", body); a.Status != 400 {
			t.Errorf("%s: %+v", body, a)
		}
	}
}

func TestManyAtOnceUnderOneKey(t *testing.T) {
	t.Parallel()
	c := start(t)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() { c.do(fmt.Sprintf("k-%d", i%8), authorize) })
	}
	wg.Wait()
	if n := c.rows("1"); n != 8 {
		t.Fatalf("%d rows for 8 keys", n)
	}
}

func TestLedgerOutlivesTheBank(t *testing.T) {
	t.Parallel()
	c := start(t)
	first := c.do("k", authorize)
	if err := c.bank.Close(); err != nil {
		t.Fatal(err)
	}
	if a := c.do("k", authorize); a.Status != 503 {
		t.Fatalf("a closed bank: %+v", a)
	}
	b, err := bank.Open(t.Context(), c.path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "/v1/operations", strings.NewReader(authorize))
	r.Header.Set("Idempotency-Key", "k")
	b.ServeHTTP(w, r)
	if !strings.Contains(w.Body.String(), first.Name) {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
}

func TestOpenNamesTheFile(t *testing.T) {
	t.Parallel()
	_, err := bank.Open(t.Context(), "/nowhere/at/all.db")
	if err == nil || !strings.Contains(err.Error(), "/nowhere/at/all.db") {
		t.Fatalf("got %v", err)
	}
}
