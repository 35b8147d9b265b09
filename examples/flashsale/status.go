package main

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	_ "github.com/glebarez/sqlite" // registers the driver "sqlite"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/surge-go/surge/examples/loadgen"
)

// tally is where the orders stand.
type tally struct {
	pending, confirmed, rejected, cancelled int
	sagas                                   int // that have not ended
	steps                                   int // that those sagas have made
}

// open is how much is still to be done.
func (t tally) open() int { return t.pending + t.sagas }

// tallier counts orders and sagas in the files, beside the services.
type tallier struct{ orders, sagas *sql.DB }

func openTallier(dir string) (*tallier, error) {
	open := func(name string) (*sql.DB, error) {
		return sql.Open("sqlite", "file:"+filepath.Join(dir, name)+"?mode=ro&_pragma=busy_timeout(1000)")
	}
	orders, err := open("order.db")
	if err != nil {
		return nil, err
	}
	sagas, err := open("shipping.db")
	if err != nil {
		_ = orders.Close()
		return nil, err
	}
	return &tallier{orders, sagas}, nil
}

func (t *tallier) close() {
	_ = t.orders.Close()
	_ = t.sagas.Close()
}

func (t *tallier) count(ctx context.Context) (c tally, err error) {
	rows, err := t.orders.QueryContext(ctx, `SELECT status, count(*) FROM orders GROUP BY status`)
	if err != nil {
		return c, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var status string
		var n int
		if err := rows.Scan(&status, &n); err != nil {
			return c, err
		}
		switch status {
		case "confirmed":
			c.confirmed = n
		case "rejected":
			c.rejected = n
		case "cancelled":
			c.cancelled = n
		default:
			c.pending += n
		}
	}
	if err := rows.Err(); err != nil {
		return c, err
	}
	err = t.sagas.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(version), 0) FROM saga_instances
		WHERE status NOT IN ('completed', 'compensated', 'cancelled', 'aborted')`).Scan(&c.sagas, &c.steps)
	return c, err
}

// ticker tells people how it goes: a line with a bar on a terminal, plain lines elsewhere.
type ticker struct {
	out   io.Writer
	bar   *progressbar.ProgressBar // nil: not a terminal
	began time.Time
	total time.Duration
	phase string
	every time.Duration // between plain lines
	last  time.Time
	rate  float64 // orders confirmed a second, lately
	was   tally
	at    time.Time
}

// newTicker makes one; was is where the orders stood before, in a folder that is used again.
func newTicker(out io.Writer, total time.Duration, was tally) *ticker {
	now := time.Now()
	t := &ticker{out: out, began: now, at: now, was: was, total: total, every: max(total/20, time.Second)}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) { //nolint:gosec // file descriptors are small
		t.bar = progressbar.NewOptions64(int64(total/time.Millisecond),
			progressbar.OptionSetWriter(out), progressbar.OptionSetWidth(20), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionSetElapsedTime(false), progressbar.OptionSetPredictTime(false),
			progressbar.OptionShowDescriptionAtLineEnd(), progressbar.OptionClearOnFinish(),
		)
	}
	return t
}

// note tells of an event.
func (t *ticker) note(what string) {
	t.phase = what
	if t.bar != nil {
		_ = t.bar.Clear()
	}
	_, _ = fmt.Fprintf(t.out, "%6.1fs  %s\n", time.Since(t.began).Seconds(), what)
}

// show tells of the figures.
func (t *ticker) show(c tally, s loadgen.Stats, breakers string) {
	now := time.Now()
	if t.bar == nil && now.Sub(t.last) < t.every {
		return
	}
	t.last = now
	t.rate = float64(c.confirmed-t.was.confirmed) / max(now.Sub(t.at).Seconds(), 0.001)
	t.was, t.at = c, now
	line := fmt.Sprintf("%5.0f orders/s · accepted %d · confirmed %d · rejected %d · open %d · p99 %.0f ms · %d buyers%s",
		t.rate, s.Accepted, c.confirmed, c.rejected, c.pending, millis(s.P99), s.Buyers, breakers)
	if t.bar == nil {
		_, _ = fmt.Fprintf(t.out, "%6.1fs  %s\n", now.Sub(t.began).Seconds(), line)
		return
	}
	t.bar.Describe(line)
	_ = t.bar.Set64(min(int64(now.Sub(t.began)/time.Millisecond), int64(t.total/time.Millisecond)-1))
}

func (t *ticker) finish() {
	if t.bar != nil {
		_ = t.bar.Finish()
	}
}
