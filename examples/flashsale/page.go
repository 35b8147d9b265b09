package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/surge-go/surge/examples/loadgen"
)

//go:embed page.html
var pageHTML []byte

// figures is what the page shows: a snapshot, and the verdict once there is one.
type figures struct {
	Phase     string   `json:"phase"`
	Seconds   float64  `json:"seconds"`
	Total     float64  `json:"total"`
	Rate      float64  `json:"rate"`
	Accepted  int64    `json:"accepted"`
	Confirmed int      `json:"confirmed"`
	Rejected  int      `json:"rejected"`
	Cancelled int      `json:"cancelled"`
	Open      int      `json:"open"`
	Shed      int64    `json:"shed"`
	Failed    int64    `json:"failed"`
	Buyers    int      `json:"buyers"`
	P50       float64  `json:"p50_ms"`
	P99       float64  `json:"p99_ms"`
	Services  []string `json:"services"` // "order: closed", by the gateway's breakers
	Verdict   *result  `json:"verdict,omitempty"`
	Faults    []string `json:"faults,omitempty"`
}

// page tells browsers how it goes, as server-sent events. It is safe for concurrent use.
type page struct {
	mu     sync.Mutex
	now    figures
	closed chan struct{}
	once   sync.Once
}

func newPage() *page { return &page{closed: make(chan struct{})} }

// close ends the streams, so that the server can be shut down.
func (p *page) close() { p.once.Do(func() { close(p.closed) }) }

func (p *page) change(f func(*figures)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.now)
}

// show notes the figures of the moment.
func (p *page) show(t *ticker, c tally, s loadgen.Stats, services []string) {
	p.change(func(f *figures) {
		f.Phase, f.Seconds, f.Total, f.Rate = t.phase, time.Since(t.began).Seconds(), t.total.Seconds(), t.rate
		f.Accepted, f.Shed, f.Failed, f.Buyers = s.Accepted, s.Shed, s.Failed, s.Buyers
		f.Confirmed, f.Rejected, f.Cancelled, f.Open = c.confirmed, c.rejected, c.cancelled, c.pending
		f.P50, f.P99, f.Services = millis(s.P50), millis(s.P99), services
	})
}

// around serves the page beside the shop.
func (p *page) around(shop http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", shop)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'")
		_, _ = w.Write(pageHTML) // the browser left
	})
	mux.HandleFunc("GET /live", p.live)
	return mux
}

func (p *page) live(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		p.mu.Lock()
		b, err := json.Marshal(p.now)
		p.mu.Unlock()
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(w, "data: %s\n\n", b); err != nil || out.Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-p.closed:
			return
		case <-r.Context().Done():
			return
		}
	}
}
