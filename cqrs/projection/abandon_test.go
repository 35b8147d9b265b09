package projection_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/projection"
)

// A tardy unit of work answers late to those whose context has a pause in it.
type tardy struct{ cqrs.UnitOfWork }

type pauseKey struct{}

type pause struct{ committed, goOn chan struct{} }

func (u tardy) Do(ctx context.Context, fn func(ctx context.Context) error) error {
	err := u.UnitOfWork.Do(ctx, fn)
	if p, ok := ctx.Value(pauseKey{}).(pause); ok {
		close(p.committed)
		<-p.goOn
	}
	return err
}

// Another rebuild begins before who abandons the one before knows that it has: what its shadow lacks is not forgotten.
func TestRule33_AbandonedWhileAnotherRebuildBegins(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	bus, a := w.local()
	cfg := w.config()
	cfg.Source = projection.FromArchive(a.read)
	p, err := projection.New("notes", w.catalog, tardy{w.work}, w.store, bus, cfg)
	must(t, err)
	projection.On(p, note)
	must(t, p.Declare(t.Context()))
	w.run(p)
	archived := make(chan struct{})
	a.hold = func(int) <-chan struct{} { return archived }
	w.publish(1, 10, "a", "b")
	_, err = p.StartRebuild(t.Context())
	must(t, err)
	late, abandoned := pause{make(chan struct{}), make(chan struct{})}, make(chan error, 1)
	go func() { abandoned <- p.Abandon(context.WithValue(t.Context(), pauseKey{}, late), "another is wanted") }()
	<-late.committed
	_, err = p.StartRebuild(t.Context())
	must(t, err)
	eventually(t, "the other shadow follows", func() (bool, string) {
		m, err := p.Model(t.Context())
		must(t, err)
		for _, g := range m.Generations {
			if g.Number == 3 && g.State == projection.Following {
				return true, ""
			}
		}
		return false, fmt.Sprintf("%+v", m)
	})
	close(late.goOn)
	must(t, <-abandoned)
	before := a.timesRead()
	eventually(t, "the archive is read again and again", func() (bool, string) {
		return a.timesRead() > before+3 || w.generation(p) != 1, ""
	})
	if got := w.generation(p); got != 1 {
		t.Errorf("generation %d is live without what generation 1 has", got)
	}
	close(archived)
	eventually(t, "the shadow is live", func() (bool, string) { return w.generation(p) == 3, "" })
	eventually(t, "everything is archived", func() (bool, string) { return len(w.wrote(a)) == 2, "" })
	if got, want := fmt.Sprint(w.rows(p)), fmt.Sprint(w.wrote(a)); got != want {
		t.Errorf("%s is not %s", got, want)
	}
}

// A rebuild that another process has abandoned is forgotten here too.
func TestAbandonedElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	bus, a := w.local()
	cfg := w.config()
	cfg.Source = projection.FromArchive(a.read)
	p, operator := w.on(bus, cfg), w.on(bus, cfg)
	must(t, p.Declare(t.Context()))
	w.run(p)
	archived := make(chan struct{})
	defer close(archived)
	a.hold = func(int) <-chan struct{} { return archived }
	w.publish(1, 10, "a", "b")
	_, err := p.StartRebuild(t.Context())
	must(t, err)
	eventually(t, "the shadow lacks them", func() (bool, string) { return p.Tracked() == 10, fmt.Sprint(p.Tracked()) })
	must(t, operator.Abandon(t.Context(), "no time"))
	eventually(t, "they are forgotten", func() (bool, string) { return p.Tracked() == 0, fmt.Sprint(p.Tracked()) })
	w.publish(1, 10, "a", "b")
	if n := p.Tracked(); n > 0 {
		t.Errorf("%d are remembered for nobody", n)
	}
}

// flaky is a store that fails once, when who locks a model wants it alone.
type flaky struct {
	projection.Store
	fails atomic.Bool
}

func (s *flaky) Lock(ctx context.Context, name string, exclusive bool) (projection.Model, error) {
	if exclusive && s.fails.CompareAndSwap(true, false) {
		return projection.Model{}, errors.New("away")
	}
	return s.Store.Lock(ctx, name, exclusive)
}

// A shadow that cannot be built is given up, if need be at the second try. The live model goes on.
func TestAShadowIsGivenUpThoughTheStoreIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	a, store := w.archived(), &flaky{Store: w.store}
	cfg := w.config()
	var wrong atomic.Bool
	var once sync.Once
	cfg.Source = projection.FromArchive(func(ctx context.Context, q projection.ArchiveQuery) archiveSeq {
		if !wrong.Load() {
			return a.read(ctx, q)
		}
		return func(yield func(projection.Archived, error) bool) {
			once.Do(func() { store.fails.Store(true) })
			yield(projection.Archived{Position: q.After}, nil)
		}
	})
	p, err := projection.New("notes", w.catalog, w.work, store, w.bus, cfg)
	must(t, err)
	projection.On(p, note)
	r := w.run(p)
	w.publish(1, 10, "a", "b")
	w.level(p)
	wrong.Store(true)
	if err := p.Rebuild(t.Context()); !errors.Is(err, projection.ErrAbandoned) {
		t.Errorf("Rebuild = %v", err)
	}
	w.publish(11, 20, "a", "b")
	w.level(p)
	must(t, r.stop())
}
