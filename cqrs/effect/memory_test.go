package effect_test

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/surge-go/surge/cqrs/effect"
)

// memory is a Store whose database clock is this process's, so that tests can run on virtual time.
type memory struct {
	mu     sync.Mutex
	rows   map[string]*row
	owners map[string]time.Time
	down   error // every call fails
	beats  error // only Beat fails
	unsure bool  // the next commit is made, and its answer is lost

	tardy time.Duration // how long the answer to Postpone takes after its commit
}

type row struct {
	rec    effect.Record
	due    time.Time
	keep   time.Time
	parked bool
	error  string
}

func newMemory() *memory {
	return &memory{rows: map[string]*row{}, owners: map[string]time.Time{}}
}

type txKey struct{}

// A tx runs its hooks when it commits.
type tx struct {
	before []func()
	after  []func()
}

func inTx(ctx context.Context) bool { return ctx.Value(txKey{}) != nil }

// do is a transaction: what was added is there only if fn returns nil.
func (m *memory) do(ctx context.Context, fn func(ctx context.Context) error) error {
	t := &tx{}
	if err := fn(context.WithValue(ctx, txKey{}, t)); err != nil {
		return err
	}
	m.mu.Lock()
	for _, f := range t.before {
		f()
	}
	err := m.answer()
	m.mu.Unlock()
	if err != nil {
		return err
	}
	for _, f := range t.after {
		f()
	}
	return nil
}

var (
	errNoTx   = errors.New("memory: no transaction")
	errUnsure = errors.New("memory: the answer to COMMIT is lost")
)

// answer is that to a commit which was made, with m.mu held.
func (m *memory) answer() error {
	if !m.unsure {
		return nil
	}
	m.unsure = false
	return errUnsure
}

// loseAnswer makes the next commit's outcome unknown to who commits.
func (m *memory) loseAnswer() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unsure = true
}

func (m *memory) Add(ctx context.Context, rec *effect.Record, committed func()) error {
	t, ok := ctx.Value(txKey{}).(*tx)
	if !ok {
		return errNoTx
	}
	t.before = append(t.before, func() {
		now := time.Now()
		m.rows[rec.ID] = &row{rec: *rec, due: now, keep: now.Add(rec.Keep)}
	})
	t.after = append(t.after, committed)
	return nil
}

func (m *memory) Claim(_ context.Context, owner string, names []string, limit int) ([]*effect.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return nil, m.down
	}
	now := time.Now()
	var due []*row
	for _, r := range m.rows {
		free := !r.parked && !r.due.After(now) && !m.owners[r.rec.Owner].After(now)
		if free && slices.Contains(names, r.rec.Name) {
			due = append(due, r)
		}
	}
	slices.SortFunc(due, func(a, b *row) int { return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.rec.ID, b.rec.ID)) })
	var claimed []*effect.Record
	for _, r := range due[:min(limit, len(due))] {
		rec := r.rec
		rec.Owner, rec.Keep = owner, r.keep.Sub(now)
		claimed = append(claimed, &rec)
		r.rec.Owner, r.rec.Doubt = owner, true
	}
	if len(claimed) > 0 {
		if err := m.answer(); err != nil {
			return nil, err
		}
	}
	return claimed, nil
}

// held returns the row if the record's owner still holds it, with m.mu held.
func (m *memory) held(rec *effect.Record) (*row, error) {
	if m.down != nil {
		return nil, m.down
	}
	r := m.rows[rec.ID]
	if r == nil || r.rec.Owner != rec.Owner || r.parked {
		return nil, effect.ErrLost
	}
	return r, nil
}

func (m *memory) Settle(ctx context.Context, rec *effect.Record, apply func(ctx context.Context) error) error {
	m.mu.Lock()
	_, err := m.held(rec)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	return m.do(ctx, func(ctx context.Context) error {
		if err := apply(ctx); err != nil {
			return err
		}
		t := ctx.Value(txKey{}).(*tx)
		t.before = append(t.before, func() { delete(m.rows, rec.ID) })
		return nil
	})
}

func (m *memory) Postpone(_ context.Context, rec *effect.Record, p effect.Postponement) error {
	defer time.Sleep(m.tardy)
	m.mu.Lock()
	defer m.mu.Unlock()
	r, err := m.held(rec)
	if err == nil && r.rec.Attempts != rec.Attempts {
		err = effect.ErrLost
	}
	if err != nil {
		return err
	}
	r.rec.Owner, r.rec.Attempts, r.rec.Doubt = "", p.Attempts, p.Doubt
	r.due, r.parked, r.error = time.Now().Add(p.Delay), p.Park, p.Error
	return nil
}

func (m *memory) Beat(_ context.Context, owner string, lease time.Duration) ([]*effect.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	until, known := m.owners[owner]
	switch {
	case m.down != nil || m.beats != nil:
		return nil, errors.Join(m.down, m.beats)
	case lease <= 0:
		delete(m.owners, owner)
		for _, r := range m.rows {
			if r.rec.Owner == owner && !r.parked {
				r.rec.Owner = ""
			}
		}
	case known && !until.After(now):
		return nil, effect.ErrLost
	default:
		name, _, _ := strings.Cut(owner, "#")
		for other := range m.owners {
			if name != "" && strings.HasPrefix(other, name+"#") {
				delete(m.owners, other)
			}
		}
		m.owners[owner] = now.Add(lease)
	}
	var held []*effect.Record
	for id, r := range m.rows {
		if r.rec.Owner == owner && !r.parked {
			held = append(held, &effect.Record{ID: id, Name: r.rec.Name, Owner: owner, Attempts: r.rec.Attempts})
		}
	}
	return held, nil
}

func (m *memory) set(down, beats error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down, m.beats = down, beats
}

// state counts open and parked intents.
func (m *memory) state() (open, parked int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.rows {
		if r.parked {
			parked++
		} else {
			open++
		}
	}
	return open, parked
}
