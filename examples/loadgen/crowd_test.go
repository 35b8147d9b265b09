package loadgen_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surge-go/surge/examples/loadgen"
)

// shop answers orders; script says with which status the nth request for a key is answered.
type shop struct {
	script func(n int) int

	mu      sync.Mutex
	seen    map[string][]time.Time
	bodies  map[string]map[string]bool
	journal string
	done    context.CancelFunc
	enough  int
	total   int
}

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/api/orders" || r.Header.Get("Authorization") != "Bearer token" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	key := r.Header.Get("Idempotency-Key")
	body := new(strings.Builder)
	_, _ = fmt.Fprint(body, r.ContentLength)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[key] = append(s.seen[key], time.Now())
	if s.bodies[key] == nil {
		s.bodies[key] = map[string]bool{}
	}
	s.bodies[key][body.String()] = true
	if s.total++; s.total >= s.enough {
		s.done()
	}
	switch status := s.script(len(s.seen[key])); status {
	case http.StatusAccepted:
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"id":"order-of-%s"}`, key)
	case 0:
		panic(http.ErrAbortHandler)
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(status)
	default:
		w.WriteHeader(status)
	}
}

func visit(t *testing.T, s *shop, pace loadgen.Pace) (loadgen.Stats, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s.seen, s.bodies, s.done = map[string][]time.Time{}, map[string]map[string]bool{}, cancel
	s.journal = filepath.Join(t.TempDir(), "journal")
	j, err := loadgen.OpenJournal(s.journal)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s)
	defer srv.Close()
	c, err := loadgen.New(loadgen.Config{
		URL: srv.URL, SKUs: []string{"a", "b", "c"}, Journal: j, Seed: 7,
		Token:    func(string) string { return "token" },
		Patience: loadgen.Patience{Retry: time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Set(pace)
	if err := c.Run(ctx, pace.Buyers); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(s.journal)
	if err != nil {
		t.Fatal(err)
	}
	return c.Stats(), string(b)
}

func TestEveryPromiseIsWrittenDown(t *testing.T) {
	t.Parallel()
	s := &shop{enough: 600, script: func(int) int { return http.StatusAccepted }}
	stats, journal := visit(t, s, loadgen.Pace{Buyers: 8})
	if stats.Accepted < 500 || stats.Doubled == 0 || stats.P99 < stats.P50 {
		t.Fatalf("%+v", stats)
	}
	if lines := int64(strings.Count(journal, "\n")); lines != stats.Accepted+stats.Doubled {
		t.Errorf("%d lines for %d purchases and %d double clicks", lines, stats.Accepted, stats.Doubled)
	}
	for key := range s.seen {
		if !strings.Contains(journal, key+"\torder-of-"+key+"\t202\n") {
			t.Errorf("%s is not in the journal", key)
		}
	}
}

func TestBuyersComeBackWithTheSameKey(t *testing.T) {
	t.Parallel()
	s := &shop{enough: 200, script: func(n int) int { return []int{0, 500, 503, 202, 202, 202}[min(n, 5)-1] }}
	stats, _ := visit(t, s, loadgen.Pace{Buyers: 4})
	if stats.Accepted == 0 || stats.Failed == 0 || stats.Refused != 0 {
		t.Fatalf("%+v", stats)
	}
	for key, bodies := range s.bodies {
		if len(bodies) != 1 {
			t.Errorf("%s was used for %d requests", key, len(bodies))
		}
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	t.Parallel()
	s := &shop{enough: 2, script: func(n int) int { return []int{429, 202}[min(n, 2)-1] }}
	stats, _ := visit(t, s, loadgen.Pace{Buyers: 1})
	if stats.Shed != 1 {
		t.Fatalf("%+v", stats)
	}
	for key, at := range s.seen {
		if len(at) > 1 && at[1].Sub(at[0]) < time.Second {
			t.Errorf("%s came back after %v", key, at[1].Sub(at[0]))
		}
	}
}

func TestNoIsTakenForAnAnswer(t *testing.T) {
	t.Parallel()
	s := &shop{enough: 20, script: func(int) int { return http.StatusUnprocessableEntity }}
	stats, journal := visit(t, s, loadgen.Pace{Buyers: 1})
	if stats.Accepted != 0 || stats.Refused == 0 || journal != "" {
		t.Fatalf("%+v, %q", stats, journal)
	}
}

func TestJournalMendsALineCutOff(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(path, []byte("k-1\to-1\t202\nk-2\to"), 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := loadgen.OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Promise("k-3", "o-3", 202); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(path)
	if string(b) != "k-1\to-1\t202\nk-2\to\nk-3\to-3\t202\n" {
		t.Fatalf("%q", b)
	}
}

func TestConfigNamesItsFaults(t *testing.T) {
	t.Parallel()
	_, err := loadgen.New(loadgen.Config{})
	for _, field := range []string{"URL", "SKUs", "Token", "Journal"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not named: %v", field, err)
		}
	}
}
