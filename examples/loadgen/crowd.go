package loadgen

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Config configures a [Crowd].
type Config struct {
	URL     string                       // the shop's: required
	SKUs    []string                     // the catalog: required
	Hot     string                       // the product that everybody wants; "" for none
	Wanted  int64                        // how many purchases of it the crowd tries, over its life
	Token   func(customer string) string // proves who a buyer is; required
	Journal *Journal                     // required
	Seed    uint64                       // of what buyers do
	Patience
	Logger *slog.Logger // nil discards
}

// Patience says how long buyers wait. The zero value works.
type Patience struct {
	Request time.Duration // for an answer; 0 means 5 s
	Buy     time.Duration // until they give a purchase up, counted from its first request; 0 means 30 s
	Retry   time.Duration // between tries that nobody told them to delay; 0 means 100 ms
}

func (c Config) withDefaults() Config {
	if c.Request == 0 {
		c.Request = 5 * time.Second
	}
	if c.Buy == 0 {
		c.Buy = 30 * time.Second
	}
	if c.Retry == 0 {
		c.Retry = 100 * time.Millisecond
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate joins every fault of the configuration.
func (c Config) Validate() error {
	var faults []error
	if c.URL == "" {
		faults = append(faults, errors.New("loadgen: Config.URL is required"))
	}
	if len(c.SKUs) == 0 {
		faults = append(faults, errors.New("loadgen: Config.SKUs is empty, at least 1 is needed"))
	}
	if c.Token == nil || c.Journal == nil {
		faults = append(faults, errors.New("loadgen: Config.Token and Config.Journal are required"))
	}
	return errors.Join(faults...)
}

// Pace is how eager the crowd is.
type Pace struct {
	Buyers int           // at most so many are active
	Think  time.Duration // between two purchases
	Hot    float64       // this part of the purchases, from 0 to 1, wants the hot product
}

// quick and slow bound the mean time to accept at which the crowd grows and shrinks.
const (
	quick = 150 * time.Millisecond
	slow  = 400 * time.Millisecond
	least = 8 // buyers that stay however slow the shop is
)

// A Crowd is buyers. It is safe for concurrent use.
type Crowd struct {
	cfg    Config
	client *http.Client
	meter  *meter
	run    string // tells this run's keys from those of earlier ones

	mu     sync.Mutex
	pace   Pace
	active int
	wake   chan struct{} // closed and replaced when active grows

	hot atomic.Int64 // purchases of the hot product so far
	err atomic.Pointer[error]
}

// New makes a crowd that does nothing until [Crowd.Run] and [Crowd.Set].
func New(cfg Config) (*Crowd, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Crowd{
		cfg:    cfg.withDefaults(),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1024, MaxIdleConns: 1024}},
		meter:  newMeter(),
		run:    rand.Text()[:10],
		wake:   make(chan struct{}),
	}, nil
}

// Set changes the pace. Half of the buyers come at once: a rush does not announce itself.
func (c *Crowd) Set(p Pace) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pace = p
	c.resize(min(p.Buyers, max(c.active, p.Buyers/2, least)))
}

// Stats returns the figures so far.
func (c *Crowd) Stats() Stats {
	s := c.meter.read()
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Buyers = c.active
	return s
}

// resize is called with mu held.
func (c *Crowd) resize(n int) {
	if n > c.active {
		close(c.wake)
		c.wake = make(chan struct{})
	}
	c.active = n
}

// Run lets at most most buyers come until ctx ends. Then each finishes the request it is waiting for, and
// Run returns. The error is the journal's: without it nobody can say what was promised.
func (c *Crowd) Run(ctx context.Context, most int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer c.client.CloseIdleConnections()
	var wg sync.WaitGroup
	for i := range most {
		wg.Go(func() {
			b := &buyer{
				Crowd: c, number: i, name: fmt.Sprintf("customer-%d", i),
				rng: mrand.New(mrand.NewPCG(c.cfg.Seed, uint64(i))), //nolint:gosec // repeatable, and i is not negative
			}
			b.token = c.cfg.Token(b.name)
			if err := b.live(ctx); err != nil {
				c.err.CompareAndSwap(nil, &err)
				cancel()
			}
		})
	}
	wg.Go(func() { c.adapt(ctx) })
	wg.Wait()
	if err := c.err.Load(); err != nil {
		return *err
	}
	return nil
}

// adapt keeps the crowd as large as the shop can take.
func (c *Crowd) adapt(ctx context.Context) {
	tick := time.NewTicker(150 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		mean, n := c.meter.recent()
		c.mu.Lock()
		switch {
		case n > 0 && mean < quick:
			c.resize(min(c.pace.Buyers, c.active+c.active/4+4))
		case mean > slow:
			c.resize(min(c.pace.Buyers, max(least, c.active-c.active/4)))
		}
		c.mu.Unlock()
	}
}

// admitted reports the pace if buyer number i is active, else what to wait for.
func (c *Crowd) admitted(i int) (Pace, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i < c.active {
		return c.pace, nil
	}
	return Pace{}, c.wake
}
