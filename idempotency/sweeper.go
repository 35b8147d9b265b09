package idempotency

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/surge-go/surge/outbox/uow"
)

// A Purger forgets at most limit things whose retention is over, within the transaction of ctx, and returns how many.
// *GormStore and *Inbox are Purgers.
type Purger interface {
	Purge(ctx context.Context, limit int) (int, error)
}

// SweeperConfig configures a Sweeper; the zero value works.
type SweeperConfig struct {
	// Interval is the time between sweeps, less up to a fifth of it by chance, so that replicas do not meet. 0 means
	// 1 min.
	Interval time.Duration
	// Batch is the number of rows that one transaction deletes. 0 means 500.
	Batch int
	// Logger hears of sweeps that failed; the next one tries again. nil discards.
	Logger *slog.Logger
}

// Validate joins every fault of the configuration.
func (c SweeperConfig) Validate() error {
	var faults []error
	if c.Interval < 0 {
		faults = append(faults, fmt.Errorf("idempotency: SweeperConfig.Interval is %v, it may not be negative", c.Interval))
	}
	if c.Batch < 0 {
		faults = append(faults, fmt.Errorf("idempotency: SweeperConfig.Batch is %d, it may not be negative", c.Batch))
	}
	return errors.Join(faults...)
}

func (c SweeperConfig) withDefaults() SweeperConfig {
	if c.Interval == 0 {
		c.Interval = time.Minute
	}
	if c.Batch == 0 {
		c.Batch = 500
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// A Sweeper deletes what is past its retention, in bounded batches that share the transactions of the unit of work,
// so it never holds up a writer for long. Any number of replicas may run one.
type Sweeper struct {
	work    *uow.UnitOfWork
	cfg     SweeperConfig
	purgers []Purger
}

// NewSweeper returns a sweeper for purgers in the database of work.
func NewSweeper(work *uow.UnitOfWork, cfg SweeperConfig, purgers ...Purger) (*Sweeper, error) {
	if work == nil {
		return nil, errors.New("idempotency: NewSweeper needs a unit of work, got nil")
	}
	if slices.Contains(purgers, nil) {
		return nil, fmt.Errorf("idempotency: NewSweeper needs purgers, number %d of them is nil", slices.Index(purgers, nil))
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Sweeper{work: work, cfg: cfg.withDefaults(), purgers: purgers}, nil
}

// Run sweeps now and then every Interval, until ctx ends; it returns nil then.
func (s *Sweeper) Run(ctx context.Context) error {
	for {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Logger.Warn("sweep failed", "error", err)
		}
		timer := time.NewTimer(s.cfg.Interval - rand.N(s.cfg.Interval/5+1))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// Sweep deletes all that is past its retention now.
func (s *Sweeper) Sweep(ctx context.Context) error {
	var faults []error
	for _, p := range s.purgers {
		faults = append(faults, s.sweep(ctx, p))
	}
	return errors.Join(faults...)
}

func (s *Sweeper) sweep(ctx context.Context, p Purger) error {
	for {
		n := 0
		err := s.work.Do(ctx, func(ctx context.Context) (err error) {
			n, err = p.Purge(ctx, s.cfg.Batch)
			return err
		})
		if err != nil || n < s.cfg.Batch {
			return err
		}
	}
}
