package idempotency

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/surge-go/surge/outbox/uow"
)

// DefaultRetention is how long keys are kept.
const DefaultRetention = 24 * time.Hour

// StoreConfig configures a GormStore; the zero value works.
type StoreConfig struct {
	// Retention is how long a key is remembered, from its first claim. 0 means [DefaultRetention]. A retry that
	// comes later runs again; let [Key.UUID] name what it creates.
	Retention time.Duration
}

// Validate says what is wrong with the configuration.
func (c StoreConfig) Validate() error {
	if c.Retention < 0 {
		return fmt.Errorf("idempotency: StoreConfig.Retention is %v, it may not be negative (0 for the default)", c.Retention)
	}
	return nil
}

func (c StoreConfig) withDefaults() StoreConfig {
	if c.Retention == 0 {
		c.Retention = DefaultRetention
	}
	return c
}

// GormStore keeps keys in the table idempotency_keys of PostgreSQL, MySQL, MariaDB or SQLite. It is a [Store] for
// effects outside the database, it satisfies cqrs.Keys, and it alone can claim and answer within the caller's
// transaction. Concurrent callers share transactions, and one statement claims for all of them.
// It is safe for concurrent use.
type GormStore struct {
	work *uow.UnitOfWork
	cfg  StoreConfig
}

var _ Store = (*GormStore)(nil)

// NewGormStore returns a store in the database of work. [Migrate] creates the table.
func NewGormStore(work *uow.UnitOfWork, cfg StoreConfig) (*GormStore, error) {
	if work == nil {
		return nil, errors.New("idempotency: NewGormStore needs a unit of work, got nil")
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &GormStore{work: work, cfg: cfg.withDefaults()}, nil
}

// Begin claims a key in a transaction that it shares with other callers of Begin.
// Inside a transaction it returns [ErrInTransaction]: the lease must be durable before its holder acts.
func (s *GormStore) Begin(ctx context.Context, r ClaimRequest) (Claim, error) {
	if err := r.Key.Validate(); err != nil {
		return Claim{}, err
	}
	if uow.In(ctx) {
		return Claim{}, ErrInTransaction
	}
	in := &intent{store: s, req: r.withDefaults(), lease: true}
	var c Claim
	err := s.work.Do(in.prepare(ctx), func(ctx context.Context) (err error) {
		c, err = in.take(ctx)
		return err
	})
	if errors.Is(err, uow.ErrOutcomeUnknown) && c.State == Acquired { // it may be there, and nothing was done under it
		c.Started = c.Recovered
		free, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		defer cancel()
		err = errors.Join(err, s.Release(free, c))
	}
	if err != nil {
		return Claim{}, fmt.Errorf("idempotency: begin: %w", err)
	}
	return c, nil
}

// Renew extends the claim. See [Store].
func (s *GormStore) Renew(ctx context.Context, c Claim) error {
	var points []byte
	if c.Points != nil {
		var err error
		if points, err = json.Marshal(c.Points); err != nil {
			return fmt.Errorf("idempotency: renew: %w", err)
		}
	}
	return s.change(ctx, "renew", c, func(q *statement) {
		q.add("lease_until = ? + "+q.dialect.now(), millis(ClaimRequest{Lease: c.Lease}.withDefaults().Lease))
		if c.Started {
			q.add(", state = ?", rowStarted)
		}
		if points != nil {
			q.add(", points = ?", points)
		}
	}, rowClaimed, rowStarted)
}

// Complete stores the answer. See [Store].
func (s *GormStore) Complete(ctx context.Context, c Claim, r Result) error {
	state, header, body, err := r.encoded()
	if err != nil {
		return fmt.Errorf("idempotency: complete: %w", err)
	}
	return s.change(ctx, "complete", c, func(q *statement) {
		q.add("state = ?, lease_until = 0, status = ?, header = ?, body = ?, points = NULL", state, r.Status, header, body)
	}, rowDone, rowDoneEmpty)
}

// Release gives the key up. See [Store].
func (s *GormStore) Release(ctx context.Context, c Claim) error {
	if c.Started {
		return s.change(ctx, "release", c, func(q *statement) {
			q.add("state = ?, lease_until = 0", rowUnknown)
		}, rowUnknown)
	}
	err := s.work.Do(ctx, func(ctx context.Context) error {
		q := statementIn(ctx).add("DELETE FROM idempotency_keys WHERE id = ? AND token = ? AND state IN (?, ?)",
			c.Key.String(), c.Token, rowClaimed, rowStarted)
		n, err := q.exec(ctx)
		if err == nil && n == 0 {
			err = absent(ctx, c)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("idempotency: release: %w", err)
	}
	return nil
}

// absent returns ErrLost if the key is there after all: then it is another attempt's, or done.
func absent(ctx context.Context, c Claim) error {
	found, err := selectKeys(ctx, []string{c.Key.String()})
	if err == nil && len(found) > 0 {
		err = ErrLost
	}
	return err
}

// change updates the holder's row by compare-and-set on its token. When nothing changed, the row is looked at:
// it may be in one of the states that the change leads to already.
func (s *GormStore) change(ctx context.Context, verb string, c Claim, set func(*statement), to ...int) error {
	err := s.work.Do(ctx, func(ctx context.Context) error {
		q := statementIn(ctx).add("UPDATE idempotency_keys SET ")
		set(q)
		q.add(" WHERE id = ? AND token = ? AND state IN (?, ?)", c.Key.String(), c.Token, rowClaimed, rowStarted)
		if n, err := q.exec(ctx); err != nil || n == 1 {
			return err
		}
		return isIn(ctx, c, to)
	})
	if err != nil {
		return fmt.Errorf("idempotency: %s: %w", verb, err)
	}
	return nil
}

func isIn(ctx context.Context, c Claim, states []int) error {
	found, err := selectKeys(ctx, []string{c.Key.String()})
	if err != nil {
		return err
	}
	r := found[c.Key.String()]
	if r == nil || r.token != c.Token {
		return ErrLost
	}
	for _, state := range states {
		if r.state == state {
			return nil
		}
	}
	return ErrLost
}

// Purge forgets at most limit keys whose retention is over by the database's clock. See [Store].
func (s *GormStore) Purge(ctx context.Context, limit int) (n int, err error) {
	err = s.work.Do(ctx, func(ctx context.Context) error {
		n, err = purge(ctx, "idempotency_keys", "id", "AND lease_until < ", limit)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("idempotency: purge: %w", err)
	}
	return n, nil
}

// purge deletes at most limit rows of a table whose expires_at has passed.
func purge(ctx context.Context, table, key, unless string, limit int) (int, error) {
	s := statementIn(ctx)
	now := s.dialect.now()
	due := " WHERE expires_at < " + now
	if unless != "" {
		due += " " + unless + now
	}
	due += " ORDER BY expires_at LIMIT ?"
	switch s.dialect {
	case mysql:
		s.add("DELETE FROM "+table+due, limit)
	case postgres:
		s.add("DELETE FROM "+table+" WHERE ("+key+") IN (SELECT "+key+" FROM "+table+due+" FOR UPDATE SKIP LOCKED)", limit)
	default:
		s.add("DELETE FROM "+table+" WHERE rowid IN (SELECT rowid FROM "+table+due+")", limit)
	}
	n, err := s.exec(ctx)
	return int(n), err
}

// Erase forgets what is stored of a person: the answers and the steps of all keys of a scope. The keys themselves
// stay until their retention is over, so a late retry does not run again; it gets [ErrNotReplayable].
// It returns how many keys it erased. Claims that are held are left alone, and so are keys whose outcome is unknown:
// without what they store of their steps, these would be done again. They go when their retention is over.
func (s *GormStore) Erase(ctx context.Context, scope string) (n int, err error) {
	first := scopePrefix(scope)
	last := first[:len(first)-1] + "0" // the character after the slash
	err = s.work.Do(ctx, func(ctx context.Context) error {
		q := statementIn(ctx).add(`UPDATE idempotency_keys SET state = ?, header = NULL, body = NULL, points = NULL
			WHERE id >= ? AND id < ? AND state = ?`, rowDoneEmpty, first, last, rowDone)
		changed, err := q.exec(ctx)
		n = int(changed)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("idempotency: erase: %w", err)
	}
	return n, nil
}
