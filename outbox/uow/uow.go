package uow

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

var (
	// ErrNoTransaction is returned where a transaction is needed and ctx carries none.
	ErrNoTransaction = errors.New("uow: no transaction in the context")
	// ErrDoomed is returned by every statement after an error that ended the transaction.
	ErrDoomed = errors.New("uow: the transaction can only roll back")
	// ErrConcurrent is returned by a nested Do while another one of the same part is under way in another goroutine.
	ErrConcurrent = errors.New("uow: another nested Do of the same part is under way")
	// ErrOtherUnit is returned by Do inside the transaction of another UnitOfWork: the two could not
	// commit together, and waiting for one inside the other invites a deadlock.
	ErrOtherUnit = errors.New("uow: inside the transaction of another unit of work")
)

// Config configures a UnitOfWork; the zero value works.
type Config struct {
	// MaxShare is the number of callers per transaction. 0 means 64; 1 gives each its own.
	MaxShare int
	// Writers is the number of concurrent transactions. 0 means 2; always 1 on SQLite, which has one writer.
	// Few writers with many parts each beat many writers with few.
	Writers int
	// Linger is how long a transaction that is not full waits for company before it begins. 0 means not at all.
	Linger time.Duration
	// Retries bounds how often a transaction is run again after a deadlock, a serialization failure, SQLITE_BUSY
	// or a lost connection. 0 means 5; negative means never. Callers that then still share one do not fail for each
	// other: they run again in halves until each has run alone.
	Retries int
	// PartTimeout bounds the time fn may take once started. 0 means 30 s; negative means no bound.
	PartTimeout time.Duration
	// Pipeline sends what [Queue] has queued, on PostgreSQL: pgxpipe.Pipeline{}. nil has every statement sent by itself.
	Pipeline Pipeline
	// Logger hears of panics and of transactions that ran again. nil discards.
	Logger *slog.Logger
}

// Validate joins every fault of the configuration.
func (c Config) Validate() error {
	var faults []error
	if c.MaxShare < 0 {
		faults = append(faults, fmt.Errorf("uow: Config.MaxShare is %d, want 1 or more (0: default)", c.MaxShare))
	}
	if c.Writers < 0 {
		faults = append(faults, fmt.Errorf("uow: Config.Writers is %d, want 1 or more (0: default)", c.Writers))
	}
	if c.Linger < 0 {
		faults = append(faults, fmt.Errorf("uow: Config.Linger is %v, it may not be negative", c.Linger))
	}
	return errors.Join(faults...)
}

func (c Config) withDefaults(d dialect) Config {
	if c.MaxShare == 0 {
		c.MaxShare = 64
	}
	if c.Writers == 0 {
		c.Writers = 2
	}
	if d == sqlite {
		c.Writers = 1
	}
	if c.Retries == 0 {
		c.Retries = 5
	}
	c.Retries = max(c.Retries, 0)
	if c.PartTimeout == 0 {
		c.PartTimeout = 30 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// UnitOfWork runs functions in transactions that concurrent callers share. It is safe for concurrent use and
// has no goroutine of its own while nobody calls Do.
type UnitOfWork struct {
	db      *gorm.DB
	sql     *sql.DB
	dialect dialect
	busy    bool // SQLite without a busy_timeout: we set one
	cfg     Config

	mu      sync.Mutex
	queue   []*call
	writers int
	full    chan struct{} // the queue holds a full transaction; wakes a lingering writer

	receipts []string    // rows of uow_outcomes that no transaction uses
	unsigned atomic.Bool // there is no such table

	stats struct{ commits, parts, restarts, retries atomic.Int64 }
}

// New returns a UnitOfWork over db, which must be PostgreSQL, MySQL, MariaDB or SQLite.
// On SQLite, give every other writer of the same file this UnitOfWork too: there is one writer at a time.
// A SQLite database in memory gets one connection, since each further one would be another database.
func New(db *gorm.DB, cfg Config) (*UnitOfWork, error) {
	if db == nil {
		return nil, errors.New("uow: New needs a database, got nil")
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d, err := dialectOf(db)
	if err != nil {
		return nil, err
	}
	if cfg.Pipeline != nil && d != postgres {
		return nil, fmt.Errorf("uow: Config.Pipeline is for PostgreSQL, the database is %s", d)
	}
	pool, err := db.DB()
	if err != nil {
		return nil, fmt.Errorf("uow: database handle: %w", err)
	}
	u := &UnitOfWork{db: db, sql: pool, dialect: d, cfg: cfg.withDefaults(d), full: make(chan struct{}, 1)}
	if d == sqlite {
		if err := u.inspectSQLite(); err != nil {
			return nil, err
		}
	}
	return u, nil
}

func (u *UnitOfWork) inspectSQLite() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var seq int
	var name, file string
	if err := u.sql.QueryRowContext(ctx, "PRAGMA database_list").Scan(&seq, &name, &file); err != nil {
		return fmt.Errorf("uow: inspect SQLite: %w", err)
	}
	if file == "" {
		u.sql.SetMaxOpenConns(1)
		u.sql.SetMaxIdleConns(1)
		u.sql.SetConnMaxIdleTime(0)
		u.sql.SetConnMaxLifetime(0)
	}
	var timeout int
	if err := u.sql.QueryRowContext(ctx, "PRAGMA busy_timeout").Scan(&timeout); err != nil {
		return fmt.Errorf("uow: inspect SQLite: %w", err)
	}
	u.busy = timeout == 0
	return nil
}

// Do runs fn in a transaction and returns once it is committed, or once what fn did is undone. Callers that come
// while another transaction is under way share the next one; each keeps its own outcome. fn runs on a
// goroutine of the unit of work's while the caller waits, may run more than once, and gets a context with the caller's
// values, the transaction and a deadline, but without the caller's cancellation. Do never returns while fn runs. Inside
// fn, Do joins: an error undoes the inner part only. Nothing else of fn may use the transaction meanwhile. fn must wait
// for its goroutines: one that returns while they are in a statement or a nested Do has failed.
//
// Errors: fn's own; ctx.Err() when ctx ended before a transaction had room for fn; ErrDoomed when fn swallowed an error
// that ended the transaction; ErrOutcomeUnknown, as an *OutcomeError; ErrOtherUnit; ErrConcurrent; what the database
// said when a commit was refused.
func (u *UnitOfWork) Do(ctx context.Context, fn func(ctx context.Context) error) error {
	if f := frameOf(ctx); f != nil {
		if f.tx.unit != u {
			return ErrOtherUnit
		}
		return f.nested(ctx, fn)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c := newCall(ctx, fn)
	u.enqueue(c)
	return c.wait()
}

// Uses reports whether the transactions are on connections of pool.
func (u *UnitOfWork) Uses(pool *sql.DB) bool { return u.sql == pool }

// Stats counts what a UnitOfWork did since it was made.
type Stats struct {
	Commits  int64 // transactions committed
	Parts    int64 // calls of Do that those transactions answered
	Restarts int64 // transactions rolled back because of one part, and run again without it
	Retries  int64 // transactions run again after a deadlock, a serialization failure or a lost connection
}

// Stats returns the counters; Parts divided by Commits is the mean number of callers that shared a commit.
func (u *UnitOfWork) Stats() Stats {
	s := &u.stats
	return Stats{s.commits.Load(), s.parts.Load(), s.restarts.Load(), s.retries.Load()}
}

// DB returns the transaction in ctx. Without one it returns a handle on which every statement fails with
// [ErrNoTransaction], so a forgotten Do is an error and never a silent write of its own.
// The handle must not be used after fn has returned.
func DB(ctx context.Context) *gorm.DB {
	if f := frameOf(ctx); f != nil {
		return f.handle(ctx)
	}
	return noTransaction(ctx)
}

// In reports whether ctx carries a transaction.
func In(ctx context.Context) bool { return frameOf(ctx) != nil }
