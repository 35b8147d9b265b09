// Package projectiontest is the conformance suite of [projection.Store].
package projectiontest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/projection"
)

// Run tests a store. open returns an empty one and the unit of work of its database.
func Run(t *testing.T, open func(t *testing.T) (projection.Store, cqrs.UnitOfWork)) {
	t.Helper()
	for name, test := range map[string]func(*suite){
		"model":              (*suite).model,
		"checkpoints":        (*suite).checkpoints,
		"undone":             (*suite).undone,
		"one wins":           (*suite).oneWins,
		"exclusive":          (*suite).exclusive,
		"names and numbers":  (*suite).apart,
		"without a position": (*suite).none,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, work := open(t)
			test(&suite{t: t, store: store, work: work})
		})
	}
}

type suite struct {
	t     *testing.T
	store projection.Store
	work  cqrs.UnitOfWork
}

var errUndo = errors.New("projectiontest: undo")

func (s *suite) do(fn func(ctx context.Context) error) {
	s.t.Helper()
	s.must(s.work.Do(s.t.Context(), fn))
}

func (s *suite) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// model: what is saved is read, inside a transaction and outside, with the database's time.
func (s *suite) model() {
	ctx := s.t.Context()
	m, err := s.store.Read(ctx, "orders")
	s.must(err)
	if m.Name != "orders" || m.Live != 0 || m.Last != 0 || len(m.Generations) != 0 || m.Now.IsZero() {
		s.t.Fatalf("of nothing: %+v", m)
	}
	var want projection.Model
	for range 2 { // the first time there is no row
		s.do(func(ctx context.Context) error {
			m, err := s.store.Lock(ctx, "orders", true)
			if err != nil {
				return err
			}
			m.Live, m.Last, m.Hold = 3, m.Last+4, m.Now.Add(time.Second)
			m.Generations = []projection.Generation{
				{Number: 3, Version: 2, State: projection.Following, Since: m.Now},
				{Number: 4, Version: 3, State: projection.Retired, Since: m.Now, Reason: "it's “why”"},
			}
			want = m
			return s.store.Save(ctx, m)
		})
	}
	read := func(ctx context.Context) error {
		m, err := s.store.Read(ctx, "orders")
		if err != nil {
			return err
		}
		if m.Now.Before(want.Now) {
			return fmt.Errorf("the clock went from %v to %v", want.Now, m.Now)
		}
		if m.Now = want.Now; fmt.Sprint(m) != fmt.Sprint(want) {
			return fmt.Errorf("read\n%+v, want\n%+v", m, want)
		}
		return nil
	}
	s.must(read(ctx))
	s.do(read)
	s.do(func(ctx context.Context) error {
		m, err := s.store.Lock(ctx, "orders", false)
		if err == nil && m.Last != 8 {
			err = fmt.Errorf("locked shared: %+v", m)
		}
		return err
	})
}

func (s *suite) advance(from int64, to projection.Checkpoint) error {
	return s.work.Do(s.t.Context(), func(ctx context.Context) error {
		return s.store.Advance(ctx, "orders", 1, from, to)
	})
}

func (s *suite) list(name string, generation int64) []projection.Checkpoint {
	s.t.Helper()
	all, err := s.store.List(s.t.Context(), name, generation)
	s.must(err)
	return all
}

// checkpoints: compare-and-set on the previous position.
func (s *suite) checkpoints() {
	at := projection.Checkpoint{Topic: "t", Partition: 2, Position: 5, Applied: 3}
	if err := s.advance(4, at); !errors.Is(err, projection.ErrMoved) {
		s.t.Fatalf("from a position of nothing: %v", err)
	}
	s.must(s.advance(projection.None, at))
	if err := s.advance(projection.None, at); !errors.Is(err, projection.ErrMoved) {
		s.t.Fatalf("from nothing, where there is something: %v", err)
	}
	at.Position, at.Applied, at.EventAt = 9, 7, time.UnixMicro(1_700_000_000_123_456).UTC()
	if err := s.advance(4, at); !errors.Is(err, projection.ErrMoved) {
		s.t.Fatalf("from another position: %v", err)
	}
	s.must(s.advance(5, at))
	s.do(func(ctx context.Context) error {
		all, err := s.store.List(ctx, "orders", 1)
		if err == nil && len(all) != 1 {
			err = fmt.Errorf("in a transaction: %+v", all)
		}
		return err
	})
	all := s.list("orders", 1)
	if len(all) != 1 || all[0].UpdatedAt.IsZero() {
		s.t.Fatalf("%+v", all)
	}
	if all[0].UpdatedAt = (time.Time{}); all[0] != at {
		s.t.Fatalf("%+v, want %+v", all[0], at)
	}
}

// none: a checkpoint may say that nothing is behind it, as a snapshot from the beginning does.
func (s *suite) none() {
	s.must(s.advance(projection.None, projection.Checkpoint{Topic: "t", Position: projection.None}))
	s.must(s.advance(projection.None, projection.Checkpoint{Topic: "t", Position: 0}))
	if all := s.list("orders", 1); len(all) != 1 || all[0].Position != 0 || !all[0].EventAt.IsZero() {
		s.t.Fatalf("%+v", all)
	}
}

// undone: nothing outlives its transaction.
func (s *suite) undone() {
	err := s.work.Do(s.t.Context(), func(ctx context.Context) error {
		m, err := s.store.Lock(ctx, "orders", true)
		if err != nil {
			return err
		}
		m.Live, m.Last = 1, 1
		if err := s.store.Save(ctx, m); err != nil {
			return err
		}
		if err := s.store.Advance(ctx, "orders", 1, projection.None, projection.Checkpoint{Topic: "t"}); err != nil {
			return err
		}
		return errUndo
	})
	if !errors.Is(err, errUndo) {
		s.t.Fatal(err)
	}
	m, err := s.store.Read(s.t.Context(), "orders")
	s.must(err)
	if m.Live != 0 || len(s.list("orders", 1)) != 0 {
		s.t.Fatalf("%+v", m)
	}
}

// oneWins: of many that advance from the same position, when there is none too.
func (s *suite) oneWins() {
	for from := projection.None; from < 5; from++ {
		var won, lost atomic.Int64
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				switch err := s.advance(from, projection.Checkpoint{Topic: "t", Position: from + 1}); {
				case err == nil:
					won.Add(1)
				case errors.Is(err, projection.ErrMoved):
					lost.Add(1)
				default:
					s.t.Error(err)
				}
			})
		}
		all.Wait()
		if won.Load() != 1 || lost.Load() != 7 {
			s.t.Fatalf("from %d: %d won, %d lost", from, won.Load(), lost.Load())
		}
	}
}

// exclusive: who changes a model sees what those before have made of it, also of a model that was not there.
func (s *suite) exclusive() {
	var all sync.WaitGroup
	const n = 24
	for i := range n {
		all.Go(func() {
			err := s.work.Do(s.t.Context(), func(ctx context.Context) error {
				m, err := s.store.Lock(ctx, "orders", i%3 > 0)
				if err != nil || i%3 == 0 {
					return err
				}
				m.Last++
				return s.store.Save(ctx, m)
			})
			if err != nil {
				s.t.Error(err)
			}
		})
	}
	all.Wait()
	m, err := s.store.Read(s.t.Context(), "orders")
	s.must(err)
	if m.Last != n*2/3 {
		s.t.Fatalf("%d changes of %d are left", m.Last, n*2/3)
	}
}

// apart: models and generations are kept apart, and forgotten apart.
func (s *suite) apart() {
	for _, name := range []string{"orders", "Orders"} {
		for generation := int64(1); generation <= 2; generation++ {
			s.do(func(ctx context.Context) error {
				for p := range int32(3) {
					at := projection.Checkpoint{Topic: "t", Partition: p, Position: generation}
					if err := s.store.Advance(ctx, name, generation, projection.None, at); err != nil {
						return fmt.Errorf("%q, generation %d, partition %d: %w", name, generation, p, err)
					}
				}
				return nil
			})
		}
	}
	s.do(func(ctx context.Context) error { return s.store.Forget(ctx, "orders", 1) })
	if n := len(s.list("orders", 1)); n != 0 {
		s.t.Fatalf("%d are not forgotten", n)
	}
	if len(s.list("orders", 2)) != 3 || len(s.list("Orders", 1)) != 3 {
		s.t.Fatal("others are forgotten")
	}
}
