package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/surge-go/surge/examples/internal/judge"
	"github.com/surge-go/surge/examples/loadgen"
)

// result is what -json prints.
type result struct {
	OK              bool    `json:"ok"`
	Placed          int     `json:"placed"`
	Confirmed       int     `json:"confirmed"`
	Rejected        int     `json:"rejected"`
	Cancelled       int     `json:"cancelled"`
	Oversold        int     `json:"oversold"`
	ChargedTwice    int     `json:"charged_twice"`
	Lost            int     `json:"lost"`
	Stuck           int     `json:"stuck"`
	Unaccounted     int     `json:"unaccounted"`
	OrdersPerSecond float64 `json:"orders_per_second"` // fulfilled, over the busy part
	P50             float64 `json:"p50_ms"`            // from request to acceptance, over HTTP
	P99             float64 `json:"p99_ms"`
	Duration        float64 `json:"duration_seconds"`
	Mode            string  `json:"mode"`
}

// busy is the part of the run in which the crowd pushes as hard as it is let.
type busy struct{ from, until time.Time }

func (b busy) length() time.Duration { return b.until.Sub(b.from) }

func newResult(v *judge.Verdict, s loadgen.Stats, b busy, took time.Duration, mode string) result {
	r := result{
		OK: v.OK(), Placed: v.Placed, Confirmed: v.Confirmed, Rejected: v.Rejected, Cancelled: v.Cancelled,
		Oversold: v.Oversold, ChargedTwice: v.ChargedTwice, Lost: v.Lost, Stuck: v.Stuck, Unaccounted: v.Unaccounted,
		P50: millis(s.P50), P99: millis(s.P99), Duration: round(took.Seconds()), Mode: mode,
	}
	if b.length() > 0 {
		r.OrdersPerSecond = round(float64(v.Fulfilled(b.from, b.until)) / b.length().Seconds())
	}
	return r
}

func millis(d time.Duration) float64 { return round(float64(d.Microseconds()) / 1000) }
func round(f float64) float64        { return math.Round(f*10) / 10 }

// print writes the verdict for people.
func (r result) print(w io.Writer, faults []string) {
	verdict := "every promise was kept"
	if !r.OK {
		verdict = "PROMISES WERE BROKEN"
	}
	_, _ = fmt.Fprintf(w, `
verdict: %s (%s)
  placed %d · confirmed %d · rejected %d · cancelled %d
  oversold %d · charged twice %d · lost %d · stuck %d · unaccounted %d
  %.0f orders/s fulfilled over the busy part · accepted in %.1f ms (p50), %.1f ms (p99) · %.1f s in all
`, verdict, r.Mode, r.Placed, r.Confirmed, r.Rejected, r.Cancelled,
		r.Oversold, r.ChargedTwice, r.Lost, r.Stuck, r.Unaccounted,
		r.OrdersPerSecond, r.P50, r.P99, r.Duration)
	for _, f := range faults {
		_, _ = fmt.Fprintln(w, "  -", f)
	}
}

// printJSON writes one line.
func (r result) printJSON(w io.Writer) error { return json.NewEncoder(w).Encode(r) }
