package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// load applies what the archive has behind the checkpoint that it has in the generation, in transactions like those
// of a partition. Several processes may do so at once: one of them wins each batch.
func (a fromArchive) load(ctx context.Context, f *feeder) error {
	l := f.newLane("", 0, true)
	if err := l.load(ctx); err != nil {
		return err
	}
	return a.into(ctx, l, ArchiveQuery{After: l.at.Position})
}

// again applies what was noted as published since the generation is what it is, and was not applied yet.
func (a fromArchive) again(ctx context.Context, f *feeder) error {
	return a.into(ctx, f.newLane("", 1, false), ArchiveQuery{After: None, Since: f.gen.Since.Add(-noteTime)})
}

// noteTime is more than an archive may take to note a publication: its transaction's time.
const noteTime = time.Minute

func (a fromArchive) into(ctx context.Context, l *lane, q ArchiveQuery) error {
	q.Topics = l.f.p.topics()
	batch := make([]*event, 0, l.f.p.cfg.MaxBatch)
	last := q.After
	for m, err := range a.read(ctx, q) {
		switch {
		case err != nil:
			return fmt.Errorf("projection: read archive: %w", err)
		case m.Position <= last || m.Message == nil:
			return fmt.Errorf("%w: the archive yields position %d after %d", ErrNoSource, m.Position, last)
		}
		last = m.Position
		if batch = append(batch, l.f.p.event(m.Topic, m.Message, m.Position)); len(batch) < cap(batch) {
			continue
		}
		if err := l.process(ctx, batch); err != nil {
			return err
		}
		batch = batch[:0]
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return l.process(ctx, batch)
}

// load reads the snapshot, once: each write moves the checkpoint of the source, so a second process that loads the
// same generation is refused at its first write. A generation whose loading has ended in the middle is replaced.
func (s fromSnapshot) load(ctx context.Context, f *feeder) error {
	l := f.newLane("", 0, true)
	if err := l.load(ctx); err != nil {
		return err
	}
	if l.at.Position != None {
		m, err := f.p.store.Read(ctx, f.p.name)
		if err != nil {
			return err
		}
		if m.Now.Sub(l.at.UpdatedAt) < f.p.cfg.Takeover {
			return errOthers
		}
		return f.replace(ctx, "its snapshot was not loaded to the end")
	}
	write := func(fn func(ctx context.Context) error) error {
		next := l.at
		next.Position++
		err := f.p.work.Do(ctx, func(ctx context.Context) error {
			ctx, err := f.enter(ctx)
			if err != nil {
				return err
			}
			if err := f.p.store.Advance(ctx, f.p.name, f.gen.Number, l.at.Position, next); err != nil {
				return err
			}
			return fn(ctx)
		})
		if err == nil {
			l.at = next
		}
		return err
	}
	// The first write tells the others that somebody is at it.
	if err := write(func(context.Context) error { return nil }); err != nil {
		return orOthers(err)
	}
	positions, err := s.read(within(ctx, f.gen), write)
	if err != nil {
		return orOthers(fmt.Errorf("projection: load snapshot: %w", err))
	}
	return orOthers(s.finish(ctx, f, positions))
}

// finish sets where the topics go on, and has the generation follow them, in one transaction.
func (fromSnapshot) finish(ctx context.Context, f *feeder, positions []cqrs.Position) error {
	_, err := f.p.change(ctx, func(ctx context.Context, m *Model) error {
		if g := m.fed(f.gen.Number); g == nil || g.State != Loading {
			return ErrMoved
		}
		if f.positioned {
			for _, at := range positions {
				to := Checkpoint{Topic: at.Topic, Partition: at.Partition, Position: at.Offset - 1}
				if err := f.p.store.Advance(ctx, f.p.name, f.gen.Number, None, to); err != nil {
					return err
				}
			}
		}
		return f.follow(m)
	})
	return err
}

func orOthers(err error) error {
	if errors.Is(err, ErrMoved) {
		return errors.Join(errOthers, err)
	}
	return err
}

// replace gives the generation up and begins another in its place.
func (f *feeder) replace(ctx context.Context, reason string) error {
	_, err := f.p.change(ctx, func(_ context.Context, m *Model) error {
		if m.fed(f.gen.Number) == nil {
			return errRetired
		}
		m.retire(f.gen.Number, reason)
		m.begin(f.gen.Version, f.p.startState())
		return nil
	})
	if err != nil {
		return err
	}
	f.log.Warn("generation is given up and begun anew", "reason", reason)
	return errRetired
}

// startState is the state in which generations begin.
func (p *Projection) startState() State {
	if p.cfg.Source == nil {
		return Following
	}
	return p.cfg.Source.state()
}
