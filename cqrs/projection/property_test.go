package projection_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/projection"
)

var errChaos = errors.New("chaos")

// chaos is a unit of work in which now and then a transaction fails, or commits and nobody hears of it, as when
// the connection breaks or the process dies between a commit and what comes after it.
type chaos struct {
	cqrs.UnitOfWork
	off atomic.Bool
}

func (c *chaos) Do(ctx context.Context, fn func(ctx context.Context) error) error {
	n := rand.IntN(20)
	if c.off.Load() {
		n = 20
	}
	err := c.UnitOfWork.Do(ctx, func(ctx context.Context) error {
		err := fn(ctx)
		if err == nil && n == 0 {
			return errChaos
		}
		return err
	})
	if err == nil && n == 1 {
		return errChaos
	}
	return err
}

// machine is the whole: events, duplicates, rebalances, processes that come and go, rebuilds at any moment, and
// transactions that fail. At every moment the live model is the fold of a prefix of each partition, and in the end
// of all.
type machine struct {
	*world
	rt    *rapid.T
	chaos *chaos
	cfg   projection.Config
	procs []*running
	n     int
}

func (m *machine) ask() *projection.Projection {
	p, err := projection.New("notes", m.catalog, m.work, m.store, m.bus, m.cfg)
	must(m.t, err)
	projection.On(p, note)
	return p
}

func (m *machine) start() {
	cfg := m.cfg
	cfg.MaxBatch = rapid.IntRange(1, 20).Draw(m.rt, "batch")
	p, err := projection.New("notes", m.catalog, m.chaos, m.store, m.bus, cfg)
	must(m.t, err)
	projection.On(p, note)
	m.procs = append(m.procs, m.run(p))
}

func (m *machine) crash() {
	if len(m.procs) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.procs)-1).Draw(m.rt, "process")
	_ = m.procs[i].stop() // it may have been refused by chaos when it started
	m.procs = append(m.procs[:i], m.procs[i+1:]...)
}

func (m *machine) events() {
	for range rapid.IntRange(1, 15).Draw(m.rt, "events") {
		m.n++
		key := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(m.rt, "key")
		must(m.t, m.sender.Publish(context.Background(), Noted{key, m.n}))
	}
}

func (m *machine) duplicate() {
	m.bus.mu.Lock()
	all := m.bus.partitions(topic)[rapid.IntRange(0, 1).Draw(m.rt, "partition")].records
	m.bus.mu.Unlock()
	if len(all) > 0 {
		must(m.t, m.bus.Publish(topic, all[rapid.IntRange(0, len(all)-1).Draw(m.rt, "offset")]))
	}
}

func (m *machine) rebuild() {
	_, err := m.ask().StartRebuild(context.Background())
	if err != nil && !errors.Is(err, projection.ErrRebuilding) && !errors.Is(err, projection.ErrNoModel) {
		m.rt.Fatal(err)
	}
}

func (m *machine) abandon() { must(m.t, m.ask().Abandon(context.Background(), "an operator's whim")) }

func (m *machine) verifyNow() {
	if err := m.verify(m.ask()); err != nil {
		m.rt.Fatal(err)
	}
}

// settle ends all disturbances and waits until everything is applied, and a shadow that is left is live.
func (m *machine) settle() {
	m.chaos.off.Store(true)
	if len(m.procs) == 0 {
		m.start()
	}
	p := m.ask()
	deadline := time.Now().Add(4 * patience) // a swap may be put off a few times on a busy machine
	for ; ; time.Sleep(10 * time.Millisecond) {
		for i, r := range m.procs { // chaos may have refused one when it started, which it has yet to hear of
			select {
			case <-r.ended:
				m.procs[i] = m.run(m.ask())
			default:
			}
		}
		model, err := p.Model(context.Background())
		must(m.t, err)
		building := false
		for _, g := range model.Generations {
			building = building || g.State != projection.Retired && g.Number != model.Live
		}
		if model.Live != 0 && !building && fmt.Sprint(m.rows(p)) == fmt.Sprint(m.all()) {
			return
		}
		if time.Now().After(deadline) {
			m.rt.Fatalf("not level: %+v\n%s, want\n%s", model, brief(m.rows(p)), brief(m.all()))
		}
		m.verifyNow()
	}
}

func TestProperty_LiveModelIsAPrefix(t *testing.T) {
	t.Parallel()
	sources := map[string]func(w *world) projection.Source{
		"topics":  func(*world) projection.Source { return projection.FromTopics() },
		"archive": func(w *world) projection.Source { return projection.FromArchive(w.archived().read) },
	}
	for name, source := range sources {
		everywhereRapid(t, name, func(rt *rapid.T, w *world) {
			m := &machine{world: w, rt: rt, chaos: &chaos{UnitOfWork: w.work}}
			m.cfg = w.config()
			m.cfg.Source, m.cfg.Logger = source(w), nil
			m.cfg.KeyOrder = rapid.Bool().Draw(rt, "key order")
			m.bus.ends = rapid.Bool().Draw(rt, "sessions end")
			defer func() {
				for _, r := range m.procs {
					_ = r.stop()
				}
			}()
			m.start()
			rt.Repeat(map[string]func(*rapid.T){
				"start": func(rt *rapid.T) {
					if m.rt = rt; len(m.procs) < 3 {
						m.start()
					}
				},
				"crash":     func(rt *rapid.T) { m.rt = rt; m.crash() },
				"events":    func(rt *rapid.T) { m.rt = rt; m.events() },
				"duplicate": func(rt *rapid.T) { m.rt = rt; m.duplicate() },
				"rebalance": func(*rapid.T) { m.bus.rebalance() },
				"rebuild":   func(rt *rapid.T) { m.rt = rt; m.rebuild() },
				"abandon":   func(rt *rapid.T) { m.rt = rt; m.abandon() },
				"work": func(rt *rapid.T) {
					for m.rt = rt; rt != nil && m.n%7 != 0; m.n++ { // gives the processes time, not a fixed one
						m.verifyNow()
					}
				},
				"": func(rt *rapid.T) { m.rt = rt; m.verifyNow() },
			})
			m.rt = rt
			m.settle()
			m.verifyNow()
		})
	}
}
