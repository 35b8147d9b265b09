package debezium

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"gorm.io/gorm"
)

// maxDelete bounds the rows of one delete.
const maxDelete = 5_000

// PrunerConfig configures a Pruner; the zero value works.
type PrunerConfig struct {
	// Slot is the connector's replication slot. "" means "surge_outbox".
	Slot string
	// Interval is how long the pruner waits between two looks at the slot, and at most between two looks for
	// scheduled messages. 0 means 250 ms.
	Interval time.Duration
	// Round is the number of rows that are read, awaited and deleted together, at 8 bytes of memory each. A round
	// takes as long as Connect lets a position wait (offset.flush.interval.ms of the worker, a minute by default), so
	// Round divided by it bounds the messages per second. 0 means 1,000,000.
	Round int
	// BehindAfter is how long a round, or a scheduled message that is due, may wait before Healthy complains.
	// 0 means 5 minutes.
	BehindAfter time.Duration
	// Logger hears of failures. nil discards.
	Logger *slog.Logger
}

func (c PrunerConfig) withDefaults() PrunerConfig {
	orElse(&c.Slot, defaultSlot)
	orElse(&c.Interval, 250*time.Millisecond)
	orElse(&c.Round, 1_000_000)
	orElse(&c.BehindAfter, 5*time.Minute)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate joins every fault of the configuration.
func (c PrunerConfig) Validate() error {
	c = c.withDefaults()
	var faults []error
	if !slotName.MatchString(c.Slot) {
		faults = append(faults, fmt.Errorf("debezium: PrunerConfig.Slot is %q, it may have 63 small letters, "+
			"digits and underscores", c.Slot))
	}
	for name, value := range map[string]time.Duration{"Interval": c.Interval, "BehindAfter": c.BehindAfter} {
		if value < time.Millisecond {
			faults = append(faults, fmt.Errorf("debezium: PrunerConfig.%s is %v, at least 1 ms is needed", name, value))
		}
	}
	if c.Round < 0 {
		faults = append(faults, fmt.Errorf("debezium: PrunerConfig.Round is %d, it may not be negative", c.Round))
	}
	return errors.Join(faults...)
}

// Pruner does what a relay does beside publishing: it deletes rows that Debezium has published, and moves
// scheduled messages into the outbox when they are due. It is safe for concurrent use.
type Pruner struct {
	pool *sql.DB
	cfg  PrunerConfig

	running atomic.Bool
	pruned  atomic.Uint64
	moved   atomic.Uint64

	rounds chore
	moves  chore
}

// NewPruner returns a pruner of the outbox in db, which must be PostgreSQL and have the tables of package outbox.
func NewPruner(db *gorm.DB, cfg PrunerConfig) (*Pruner, error) {
	if err := checkDatabase("NewPruner", db); err != nil {
		return nil, err
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	pool, err := db.DB()
	if err != nil {
		return nil, fmt.Errorf("debezium: database handle: %w", err)
	}
	return &Pruner{pool: pool, cfg: cfg.withDefaults()}, nil
}

func checkDatabase(user string, db *gorm.DB) error {
	if db == nil {
		return fmt.Errorf("debezium: %s needs a database, got nil", user)
	}
	if db.Name() != "postgres" {
		return fmt.Errorf("%w, got %s", ErrDialect, db.Name())
	}
	return nil
}

// Run prunes and moves until ctx ends, then returns nil; failures of the database are logged and tried again.
// Any number of pruners may run on one database; a relay must not, or everything is published twice. The only
// error is [ErrRunning].
func (p *Pruner) Run(ctx context.Context) error {
	if !p.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer p.running.Store(false)
	for _, c := range []*chore{&p.rounds, &p.moves} { // of an earlier Run
		c.done()
		c.note(nil)
	}
	var loops sync.WaitGroup
	loops.Go(func() { p.moveLoop(ctx) })
	loops.Go(func() { p.pruneLoop(ctx) })
	loops.Wait()
	return nil
}

// pruneLoop makes one round after the other.
func (p *Pruner) pruneLoop(ctx context.Context) {
	for ctx.Err() == nil {
		err := p.prune(ctx)
		if err != nil && ctx.Err() == nil {
			p.cfg.Logger.Warn("outbox cannot be pruned", "slot", p.cfg.Slot, "error", err)
		}
		p.rounds.note(err)
		_ = sleep(ctx, p.cfg.Interval)
	}
}

// prune reads a round, waits until the slot has confirmed it, and deletes it.
func (p *Pruner) prune(ctx context.Context) error {
	p.rounds.begin()
	r, err := p.survey(ctx)
	if err != nil {
		return err
	}
	p.rounds.note(nil)
	if len(r.seqs) == 0 {
		p.rounds.done()
		return nil
	}
	for {
		confirmed, void, err := p.settled(ctx, r)
		switch {
		case err != nil:
			return err
		case void:
			return nil
		case confirmed:
			return p.remove(ctx, r.seqs)
		}
		if err := sleep(ctx, p.cfg.Interval); err != nil {
			return err
		}
	}
}

// remove deletes a round's rows. A crash of the server may bring some back, for the next round.
func (p *Pruner) remove(ctx context.Context, seqs []int64) error {
	for len(seqs) > 0 {
		part := seqs[:min(len(seqs), maxDelete)]
		seqs = seqs[len(part):]
		var n int64
		err := p.transaction(ctx, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, "SET LOCAL synchronous_commit = off"); err != nil {
				return err
			}
			res, err := tx.ExecContext(ctx, "DELETE FROM outbox WHERE seq = ANY($1)", part)
			if err != nil {
				return err
			}
			n, err = res.RowsAffected()
			return err
		})
		if err != nil {
			return err
		}
		p.pruned.Add(uint64(max(n, 0))) //nolint:gosec // not negative
	}
	p.rounds.done()
	return nil
}

func (p *Pruner) transaction(ctx context.Context, fn func(*sql.Tx) error) error {
	tx, err := p.pool.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		_ = tx.Rollback()
		return err
	}
	return tx.Commit()
}

// Pruned returns how many rows this pruner has deleted.
func (p *Pruner) Pruned() uint64 { return p.pruned.Load() }

// Moved returns how many scheduled messages this pruner has moved into the outbox.
func (p *Pruner) Moved() uint64 { return p.moved.Load() }

// Drain waits until every message that was committed before the call has been published and deleted: the moment
// to stop the connector when a relay is to take over. Scheduled messages are not waited for. A pruner must be
// running.
func (p *Pruner) Drain(ctx context.Context) error {
	var last sql.NullInt64
	if err := p.pool.QueryRowContext(ctx, "SELECT max(seq) FROM outbox").Scan(&last); err != nil {
		return fmt.Errorf("debezium: drain: %w", err)
	}
	for left := true; left; {
		const query = "SELECT EXISTS (SELECT 1 FROM outbox WHERE seq <= $1)"
		if err := p.pool.QueryRowContext(ctx, query, last.Int64).Scan(&left); err != nil {
			return fmt.Errorf("debezium: drain: %w", err)
		}
		if !left {
			return nil
		}
		if err := sleep(ctx, min(p.cfg.Interval, 50*time.Millisecond)); err != nil {
			return fmt.Errorf("debezium: drain: %w", err)
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
