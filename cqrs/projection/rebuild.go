package projection

import (
	"context"
	"fmt"
	"time"
)

// Rebuild builds the model anew beside the live one, and returns once the new one is live. When ctx ends it stops
// waiting, and the rebuild goes on; [Projection.Abandon] ends it. Some process has to run the projection.
// Errors: [ErrNoSource], [ErrRebuilding], [ErrNoModel], [ErrAbandoned].
func (p *Projection) Rebuild(ctx context.Context) error {
	number, err := p.StartRebuild(ctx)
	if err != nil {
		return err
	}
	ticker := time.NewTicker(p.cfg.Poll)
	defer ticker.Stop()
	for {
		m, err := p.store.Read(ctx, p.name)
		if err != nil {
			return fmt.Errorf("projection: read model %s: %w", p.name, err)
		}
		g := m.generation(number)
		switch {
		case m.Live >= number:
			return nil
		case g == nil:
			return fmt.Errorf("%w: generation %d", ErrAbandoned, number)
		case g.State == Retired:
			return fmt.Errorf("%w: generation %d: %s", ErrAbandoned, number, g.Reason)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// StartRebuild begins a shadow and returns its number. Of callers in several processes one wins; the others get
// [ErrRebuilding].
func (p *Projection) StartRebuild(ctx context.Context) (int64, error) {
	if err := p.Validate(); err != nil {
		return 0, err
	}
	if !isPositioned(p.bus) && p.cfg.Inbox == nil {
		return 0, fmt.Errorf("%w: on %T, which has no positions, it needs an Inbox", ErrNoSource, p.bus)
	}
	if err := p.checkSource(ctx, true); err != nil {
		return 0, err
	}
	var g Generation
	_, err := p.change(ctx, func(_ context.Context, m *Model) error {
		live := m.fed(m.Live)
		switch s := m.shadow(); {
		case live == nil:
			return fmt.Errorf("%w: %s", ErrNoModel, p.name)
		case live.Version > p.cfg.Version:
			return fmt.Errorf("%w: %s", ErrSuperseded, p.name)
		case s != nil:
			since := s.Since.Format(time.RFC3339)
			return fmt.Errorf("%w: %s, generation %d since %s", ErrRebuilding, p.name, s.Number, since)
		}
		g = m.begin(p.cfg.Version, p.startState())
		return nil
	})
	if err != nil {
		return 0, err
	}
	p.log.Info("rebuild begins", "generation", g.Number)
	poke(p.poke)
	return g.Number, nil
}

// Abandon gives the shadow up; without one, or before there is a live model, it does nothing. The shadow of a newer
// version is begun again when a program of that version starts.
func (p *Projection) Abandon(ctx context.Context, reason string) error {
	return p.abandon(ctx, 0, reason)
}

// abandon gives the shadow up, if it is the one of this number.
func (p *Projection) abandon(ctx context.Context, number int64, reason string) error {
	var retired int64
	_, err := p.change(ctx, func(_ context.Context, m *Model) error {
		retired = 0
		if s := m.shadow(); s != nil && m.Live != 0 && (number == 0 || s.Number == number) {
			retired = s.Number
			m.retire(retired, reason)
		}
		return nil
	})
	if err == nil {
		p.track.end(retired)
		poke(p.poke)
	}
	return err
}
