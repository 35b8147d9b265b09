package projection

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Run feeds the model until ctx ends, and then returns nil, once what is under way has committed: it waits for apply
// functions, Create, Drop and the source as long as they take, cqrs/host for no longer than its Grace. It begins the
// first generation, or a shadow if the live one is of an older version. It reports the faults that registration
// has recorded. Errors: [ErrSuperseded], [ErrNoSource], [ErrHistoryLost], the store's when it starts. It can be
// called again after it has returned.
func (p *Projection) Run(ctx context.Context) error {
	if err := p.begin(ctx); err != nil {
		return err
	}
	defer p.running.Store(false)
	r := &runner{p: p, feeders: map[int64]*feeder{}, ended: make(chan *feeder)}
	ctx, cancel := context.WithCancel(ctx)
	defer r.wait()
	defer cancel()
	ticker := time.NewTicker(p.cfg.Poll)
	defer ticker.Stop()
	for tick := true; ; {
		if err := r.reconcile(ctx, tick); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			tick = true
		case <-p.poke:
			tick = false
		case f := <-r.ended:
			tick = false
			if err := r.failed(ctx, f); err != nil {
				return err
			}
		}
	}
}

func (p *Projection) begin(ctx context.Context) error {
	if err := p.Validate(); err != nil {
		return err
	}
	if !p.running.CompareAndSwap(false, true) {
		return fmt.Errorf("projection: %s runs already", p.name)
	}
	p.mu.Lock()
	p.makeRoutes()
	p.mu.Unlock()
	if err := p.ensure(ctx); err != nil {
		p.running.Store(false)
		return err
	}
	return nil
}

// ensure begins a generation of this version if there is none.
func (p *Projection) ensure(ctx context.Context) error {
	m, err := p.store.Read(ctx, p.name)
	if err != nil {
		return fmt.Errorf("projection: read model %s: %w", p.name, err)
	}
	p.live.Store(m.Live)
	if due, err := p.due(&m); err != nil || !due {
		return err
	}
	if err := p.checkSource(ctx, m.Live != 0); err != nil {
		return err
	}
	_, err = p.change(ctx, func(_ context.Context, m *Model) error {
		due, err := p.due(m) // another process may have been faster
		if err != nil || !due {
			return err
		}
		if old := m.shadow(); old != nil {
			m.retire(old.Number, fmt.Sprintf("version %d is to be built", p.cfg.Version))
		}
		g := m.begin(p.cfg.Version, p.startState())
		p.log.Info("generation begins", "generation", g.Number, "version", g.Version, "live", m.Live)
		return nil
	})
	return err
}

// due reports whether a generation of this version has to be begun.
func (p *Projection) due(m *Model) (bool, error) {
	for _, g := range []*Generation{m.fed(m.Live), m.shadow()} {
		switch {
		case g == nil:
		case g.Version > p.cfg.Version:
			return false, fmt.Errorf("%w: %s is of version %d, Config.Version is %d",
				ErrSuperseded, p.name, g.Version, p.cfg.Version)
		case g.Version == p.cfg.Version:
			return false, nil
		}
	}
	return true, nil
}

func (p *Projection) checkSource(ctx context.Context, needed bool) error {
	if p.cfg.Source != nil {
		return p.cfg.Source.check(ctx, p)
	}
	if needed {
		return fmt.Errorf("%w: %s has no Config.Source", ErrNoSource, p.name)
	}
	return nil
}

// Declare tells a bus whose Publish waits for its groups (localbus) that this projection reads. Call it before
// anything is published, as cqrs/host does for its groups; Run begins too late for what is published before.
// It begins the first generation if there is none, and refuses like Run.
func (p *Projection) Declare(ctx context.Context) error {
	if err := p.Validate(); err != nil {
		return err
	}
	if err := p.ensure(ctx); err != nil {
		return err
	}
	bus, ok := p.bus.(declaring)
	if !ok {
		return nil
	}
	m, err := p.Model(ctx)
	if err != nil {
		return err
	}
	g := m.fed(m.Live)
	if m.Live == 0 {
		g = m.shadow()
	}
	if g != nil && g.Version == p.cfg.Version {
		bus.Declare(p.group(g.Number), p.topics()...)
	}
	return nil
}

// runner is one Run: it has a feeder for each generation of this version that is to be fed.
type runner struct {
	p       *Projection
	feeders map[int64]*feeder // nil: has failed, and starts again with the next tick
	ended   chan *feeder
	all     []*feeder
	again   time.Time         // of the next look whether the shadow is level
	heads   map[string]bounds // of topics that the live model does not read
	firsts  map[string]bounds // where topics begin
}

func (r *runner) wait() {
	for _, f := range r.all {
		<-f.ended
	}
}

// reconcile does what the model says. Only on a tick it does what costs, or has failed before.
func (r *runner) reconcile(ctx context.Context, tick bool) error {
	p := r.p
	m, err := p.store.Read(ctx, p.name)
	if err != nil {
		if ctx.Err() == nil {
			p.log.Error("model cannot be read", "error", err)
		}
		return nil
	}
	p.live.Store(m.Live)
	for number, f := range r.feeders {
		switch {
		case m.fed(number) == nil:
			r.retire(number, f)
		case f == nil && tick:
			delete(r.feeders, number)
		}
	}
	for _, g := range m.Generations {
		if _, fed := r.feeders[g.Number]; !fed && g.State != Retired && g.Version == p.cfg.Version {
			r.start(ctx, g)
		}
	}
	if s := m.shadow(); s != nil && m.Live != 0 && s.Version == p.cfg.Version && s.State == Following {
		if err := r.trySwap(ctx, m, *s); err != nil && ctx.Err() == nil {
			p.log.Error("shadow cannot be swapped in", "error", err)
		}
	}
	if tick {
		r.dropRetired(ctx, m)
	}
	return nil
}

func (r *runner) start(ctx context.Context, g Generation) {
	f := r.p.newFeeder(g)
	if live := r.p.live.Load(); live != 0 && g.Number != live {
		r.p.track.begin(f)
		r.heads = nil
	}
	r.feeders[g.Number] = f
	r.all = append(slices.DeleteFunc(r.all, (*feeder).over), f)
	f.start(ctx, r.ended)
}

// retire stops the feeder of a generation that is retired. Its bus need not wait for its group any more.
func (r *runner) retire(number int64, f *feeder) {
	delete(r.feeders, number)
	if f != nil {
		f.stop()
		<-f.ended
		f.log.Info("generation is retired")
	}
	r.p.track.end(number)
	if bus, ok := r.p.bus.(forgetting); ok {
		bus.Forget(r.p.group(number))
	}
}

// failed decides what the end of a feeder means.
func (r *runner) failed(ctx context.Context, f *feeder) error {
	if r.feeders[f.gen.Number] != f {
		return nil // it was stopped
	}
	r.feeders[f.gen.Number] = nil
	err := f.err
	switch {
	case ctx.Err() != nil, errors.Is(err, errRetired), errors.Is(err, errOthers):
		return nil
	case !errors.Is(err, ErrHistoryLost) && !errors.Is(err, ErrNoSource):
		f.log.Error("feeding failed, it is tried again", "error", err)
		return nil
	case r.p.live.Load() == 0, f.gen.Number == r.p.live.Load():
		return err
	}
	f.log.Error("shadow is given up", "error", err)
	if err := r.p.abandon(ctx, f.gen.Number, err.Error()); err != nil {
		f.log.Error("shadow cannot be given up, it is tried again", "error", err)
	}
	return nil
}

// dropRetired removes what queries cannot be reading any more.
func (r *runner) dropRetired(ctx context.Context, m Model) {
	p := r.p
	for _, g := range m.Generations {
		if g.State != Retired || m.Now.Sub(g.Since) < p.cfg.DropAfter {
			continue
		}
		if p.cfg.Drop != nil {
			if err := contain(func() error { return p.cfg.Drop(within(ctx, g)) }); err != nil {
				p.log.Error("generation cannot be dropped, it is tried again", "generation", g.Number, "error", err)
				continue
			}
		}
		_, err := p.change(ctx, func(ctx context.Context, m *Model) error {
			m.remove(g.Number)
			return p.store.Forget(ctx, p.name, g.Number)
		})
		if err != nil {
			p.log.Error("generation cannot be forgotten, it is tried again", "generation", g.Number, "error", err)
			continue
		}
		p.log.Info("generation is dropped", "generation", g.Number)
	}
}
