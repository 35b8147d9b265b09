package loadgen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// What part of the buyers does what.
const (
	doubleClicks = 0.02
	declined     = 0.01
	cancelsNow   = 0.004 // the order just accepted
	cancelsLate  = 0.004 // the one before, which is probably fulfilled
	looks        = 0.04
	twoLines     = 0.3
)

type buyer struct {
	*Crowd
	number int
	name   string
	token  string
	rng    *mrand.Rand
	bought int
	last   string // the order before
}

type line struct {
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
}

type cart struct {
	Card  string `json:"card"`
	Lines []line `json:"lines"`
}

// reply is what a buyer makes of an answer.
type reply struct {
	status int // 0: no answer
	order  string
	wait   time.Duration // what the shop asked for
}

func (r reply) accepted() bool { return r.status == http.StatusAccepted }

// final reports whether trying again would not change the answer.
func (r reply) final() bool {
	switch r.status {
	case 0, http.StatusTooManyRequests, http.StatusConflict, http.StatusRequestTimeout, http.StatusTooEarly:
		return false
	default:
		return r.status < 500
	}
}

// live buys until ctx ends.
func (b *buyer) live(ctx context.Context) error {
	for ctx.Err() == nil {
		pace, wake := b.admitted(b.number)
		if wake != nil {
			select {
			case <-ctx.Done():
			case <-wake:
			}
			continue
		}
		if err := b.buy(ctx, pace); err != nil {
			return err
		}
		if pace.Think > 0 {
			sleep(ctx, time.Duration(b.rng.Int64N(int64(2*pace.Think))))
		}
	}
	return nil
}

// buy makes one purchase, under one key, with as many tries as it takes.
func (b *buyer) buy(ctx context.Context, pace Pace) error {
	b.bought++
	key := fmt.Sprintf("%s-%s-%d", b.name, b.run, b.bought)
	body, err := json.Marshal(b.fill(pace))
	if err != nil {
		return err
	}
	began := time.Now()
	for try := 1; ; try++ {
		r, err := b.send(ctx, key, body, try == 1 && b.rng.Float64() < doubleClicks)
		if err != nil {
			return err
		}
		if r.accepted() {
			return b.after(ctx, r.order)
		}
		if r.final() || time.Since(began) > b.cfg.Buy {
			b.meter.count(func(s *Stats) { s.Refused++ })
			return nil
		}
		if !sleep(ctx, b.pause(r)) {
			return nil
		}
	}
}

func (b *buyer) pause(r reply) time.Duration {
	d := max(r.wait, b.cfg.Retry)
	return d + time.Duration(b.rng.Int64N(int64(d)/4+1))
}

// fill chooses what to buy.
func (b *buyer) fill(pace Pace) cart {
	c := cart{Card: "visa-" + b.name}
	if b.rng.Float64() < declined {
		c.Card = "declined-" + b.name
	}
	if b.cfg.Hot != "" && b.rng.Float64() < pace.Hot && b.hot.Add(1) <= b.cfg.Wanted {
		c.Lines = []line{{SKU: b.cfg.Hot, Quantity: 1}}
		return c
	}
	i := b.rng.IntN(len(b.cfg.SKUs))
	c.Lines = []line{{SKU: b.cfg.SKUs[i], Quantity: 1 + b.rng.IntN(2)}}
	if len(b.cfg.SKUs) > 1 && b.rng.Float64() < twoLines {
		j := (i + 1 + b.rng.IntN(len(b.cfg.SKUs)-1)) % len(b.cfg.SKUs)
		c.Lines = append(c.Lines, line{SKU: b.cfg.SKUs[j], Quantity: 1})
	}
	return c
}

// send posts the order, twice at once after a double click. Every promise is noted; the purchase counts once.
func (b *buyer) send(ctx context.Context, key string, body []byte, twice bool) (reply, error) {
	if !twice {
		r := b.post(ctx, key, body)
		return r, b.note(key, r, true)
	}
	b.meter.count(func(s *Stats) { s.Doubled++ })
	var wg sync.WaitGroup
	var first, second reply
	wg.Go(func() { first = b.post(ctx, key, body) })
	wg.Go(func() { second = b.post(ctx, key, body) })
	wg.Wait()
	if !first.accepted() {
		first, second = second, first
	}
	return first, errors.Join(b.note(key, first, true), b.note(key, second, false))
}

// note writes a promise down, and only then counts it.
func (b *buyer) note(key string, r reply, counts bool) error {
	if !r.accepted() {
		return nil
	}
	if err := b.cfg.Journal.Promise(key, r.order, r.status); err != nil {
		return err
	}
	if counts {
		b.meter.count(func(s *Stats) { s.Accepted++ })
	}
	return nil
}

// after is what a buyer does with an accepted order.
func (b *buyer) after(ctx context.Context, order string) error {
	switch roll := b.rng.Float64(); {
	case roll < cancelsNow:
		b.cancel(ctx, order)
	case roll < cancelsNow+cancelsLate && b.last != "":
		b.cancel(ctx, b.last)
	case roll < cancelsNow+cancelsLate+looks:
		b.request(ctx, http.MethodGet, "/api/orders/"+order+"/view", "", nil)
		b.meter.count(func(s *Stats) { s.Reads++ })
	}
	b.last = order
	return nil
}

// cancel asks a few times; a shop that is down then keeps the order.
func (b *buyer) cancel(ctx context.Context, order string) {
	for range 5 {
		r := b.request(ctx, http.MethodPost, "/api/orders/"+order+"/cancel", "cancel-"+order, nil)
		if r.final() {
			b.meter.count(func(s *Stats) { s.Cancels++ })
			return
		}
		if !sleep(ctx, b.pause(r)) {
			return
		}
	}
}

func (b *buyer) post(ctx context.Context, key string, body []byte) reply {
	began := time.Now()
	r := b.request(ctx, http.MethodPost, "/api/orders", key, body)
	if r.accepted() {
		b.meter.took(time.Since(began))
	}
	return r
}

// request makes one HTTP request. It outlives ctx: a buyer waits for an answer that is on its way.
func (b *buyer) request(ctx context.Context, method, path, key string, body []byte) reply {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.cfg.Request)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, b.cfg.URL+path, strings.NewReader(string(body)))
	if err != nil {
		b.cfg.Logger.Error("bad request", "error", err)
		return reply{}
	}
	req.Header.Set("Authorization", "Bearer "+b.token)
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := b.client.Do(req)
	if err != nil {
		b.meter.count(func(s *Stats) { s.Failed++ })
		return reply{}
	}
	defer func() { _ = res.Body.Close() }()
	return b.read(res)
}

func (b *buyer) read(res *http.Response) reply {
	r := reply{status: res.StatusCode}
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil {
		r.wait = time.Duration(s) * time.Second
	}
	switch {
	case res.StatusCode == http.StatusTooManyRequests:
		b.meter.count(func(s *Stats) { s.Shed++ })
	case res.StatusCode >= 500:
		b.meter.count(func(s *Stats) { s.Failed++ })
	case res.StatusCode == http.StatusAccepted:
		var receipt struct {
			ID string `json:"id"`
		}
		if err := json.NewDecoder(res.Body).Decode(&receipt); err != nil || receipt.ID == "" {
			r.status = 0 // cut off: nothing was promised yet
		}
		r.order = receipt.ID
	}
	_, _ = io.Copy(io.Discard, res.Body) // so that the connection is used again
	return r
}

// sleep reports whether it slept to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
