package projection

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// trySwap makes the shadow live if it is level with the live model. If it nearly is, the live model is held for a
// moment, so that it gets there under constant traffic too.
func (r *runner) trySwap(ctx context.Context, m Model, shadow Generation) error {
	p := r.p
	if f := r.feeders[shadow.Number]; f == nil && !isPositioned(p.bus) || f != nil && !f.positioned && !f.level.Load() {
		return nil
	}
	now := time.Now()
	if now.Before(r.again) {
		return nil
	}
	r.again = now.Add(p.cfg.Poll / 50)
	far, err := r.distance(ctx, m.Live, shadow.Number)
	if err != nil {
		return err
	}
	if !isPositioned(p.bus) && far > maxAsked {
		return p.prune(ctx, shadow.Number)
	}
	if far == 0 || !isPositioned(p.bus) {
		if swapped, err := r.swap(ctx, shadow); swapped || err != nil {
			return err
		}
	}
	if far > int64(holdWithin*p.cfg.MaxBatch) || !p.mayHold(&m) {
		return nil
	}
	_, err = p.change(ctx, func(_ context.Context, m *Model) error {
		if m.fed(shadow.Number) != nil && m.Live != shadow.Number && p.mayHold(m) {
			m.Hold = m.Now.Add(p.cfg.HoldFor)
		}
		return nil
	})
	return err
}

// holdWithin is how many batches a shadow may be behind when the live model is held for it.
const holdWithin = 8

// mayHold reports whether the live model was left alone for long enough, whoever has held it.
func (p *Projection) mayHold(m *Model) bool { return !m.Now.Before(m.Hold.Add(4 * p.cfg.HoldFor)) }

func isPositioned(b Bus) bool {
	_, ok := b.(positioned)
	return ok
}

// swap flips the live generation in one transaction, in which nobody feeds either of them.
func (r *runner) swap(ctx context.Context, shadow Generation) (swapped bool, err error) {
	p := r.p
	p.track.commits.Lock()
	defer p.track.commits.Unlock()
	var old int64
	_, err = p.change(ctx, func(ctx context.Context, m *Model) error {
		g := m.fed(shadow.Number)
		if g == nil || g.State != Following || m.Live == shadow.Number {
			return errBehind
		}
		if err := r.level(ctx, m.Live, shadow.Number); err != nil {
			return err
		}
		old = m.Live
		m.swap(shadow.Number)
		return nil
	})
	if err != nil {
		if errors.Is(err, errBehind) {
			err = nil
		}
		return false, err
	}
	p.track.end(shadow.Number)
	p.log.Info("shadow is live", "generation", shadow.Number, "version", shadow.Version, "retired", old)
	poke(p.poke)
	return true, nil
}

// level returns errBehind unless the shadow has applied all that the live model has.
func (r *runner) level(ctx context.Context, live, shadow int64) error {
	if !isPositioned(r.p.bus) {
		missing, err := r.p.missing(ctx, shadow)
		if err == nil && missing {
			poke(r.feeders[shadow].missing)
			err = errBehind
		}
		return err
	}
	far, err := r.distance(ctx, live, shadow)
	if err == nil && far > 0 {
		err = errBehind
	}
	return err
}

// distance is how many positions the shadow is behind the live model.
func (r *runner) distance(ctx context.Context, live, shadow int64) (int64, error) {
	p := r.p
	if !isPositioned(p.bus) {
		return p.track.size(), nil
	}
	has, err := r.positions(ctx, shadow)
	if err != nil {
		return 0, err
	}
	want, err := r.positions(ctx, live)
	if err != nil {
		return 0, err
	}
	var far int64
	for _, topic := range p.topics() {
		next, known := want[topic]
		if !known { // the live model does not read it: all there was when the swap was first thought of
			if next, err = r.head(ctx, topic); err != nil {
				return 0, err
			}
		}
		for partition, n := range next {
			at, begun := has[topic][partition]
			if !begun && n > 0 {
				if at, err = r.beginning(ctx, topic, partition); err != nil {
					return 0, err
				}
			}
			far += max(0, n-at)
		}
	}
	return far, nil
}

// positions returns a generation's next positions by topic and partition.
func (r *runner) positions(ctx context.Context, generation int64) (map[string]map[int32]int64, error) {
	all, err := r.p.store.List(ctx, r.p.name, generation)
	if err != nil {
		return nil, fmt.Errorf("projection: read checkpoints: %w", err)
	}
	next := map[string]map[int32]int64{}
	for _, c := range all {
		if next[c.Topic] == nil {
			next[c.Topic] = map[int32]int64{}
		}
		next[c.Topic][c.Partition] = c.Position + 1
	}
	return next, nil
}

// beginning is where a generation without a checkpoint begins to read a partition. What its topic does not have any
// more, its source has; a partition that has been idle for long may have nothing to read at all.
func (r *runner) beginning(ctx context.Context, topic string, partition int32) (int64, error) {
	bus, ok := r.p.bus.(bounded)
	if _, whole := r.p.cfg.Source.(fromTopics); whole || !ok {
		return 0, nil
	}
	b := r.firsts[topic]
	if time.Now().After(b.until) {
		first, err := bus.Earliest(ctx, topic)
		if err != nil {
			return 0, err
		}
		if r.firsts == nil {
			r.firsts = map[string]bounds{}
		}
		b = bounds{first: first, until: time.Now().Add(time.Second)}
		r.firsts[topic] = b
	}
	return b.first[partition], nil
}

func (r *runner) head(ctx context.Context, topic string) (map[int32]int64, error) {
	bus, ok := r.p.bus.(bounded)
	if !ok {
		return nil, nil
	}
	if h, ok := r.heads[topic]; ok {
		return h.next, nil
	}
	next, err := bus.Latest(ctx, topic)
	if err != nil {
		return nil, err
	}
	if r.heads == nil {
		r.heads = map[string]bounds{}
	}
	r.heads[topic] = bounds{next: next}
	return next, nil
}

// poke wakes whoever waits for c.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
