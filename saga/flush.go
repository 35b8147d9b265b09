package saga

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga/internal/flow"
	"github.com/surge-go/surge/saga/internal/store"
)

// A batch is what one transaction does with sagas.
type batch struct {
	e     *Engine
	works []work
	ticks []*tick
	open  []*folding // not stored yet
}

// flush folds what a transaction brought for any number of sagas, and stores it. It runs just before the commit;
// an error rolls the transaction back, and the unit of work finds out whose fault it was.
func (e *Engine) flush(ctx context.Context, works []work) error {
	if err := e.record(ctx); err != nil {
		return cqrs.Later(unknownDelay, err) // no message is to blame
	}
	b := &batch{e: e, works: works}
	const patience = 10
	for round := range patience {
		if err := b.gather(ctx, round); err != nil {
			return err
		}
		for _, f := range b.open {
			if err := e.fold(ctx, f); err != nil {
				return err
			}
		}
		if err := b.store(ctx); err != nil {
			return err
		}
		if len(b.works) == 0 {
			e.measure(works)
			return nil
		}
	}
	return fmt.Errorf("saga: %d instances change faster than they can be written", len(b.works))
}

// gather loads the instances that the works are for. The first rounds are optimistic; an instance that lost twice,
// one whose transitions write to the database, and every one on MySQL is locked, in the order of ids.
func (b *batch) gather(ctx context.Context, round int) error {
	byID, byKey, err := b.sort(ctx, round)
	if err != nil {
		return err
	}
	ids := make([]string, 0, len(byID))
	for id := range byID {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	rows, err := store.Load(ctx, ids, round >= 2 || b.e.locks() || store.MustLock(ctx))
	if err != nil {
		return err
	}
	if rows, err = b.due(ctx, rows, byID); err != nil {
		return err
	}
	b.open = b.open[:0]
	for _, r := range rows {
		works := byID[r.ID]
		delete(byID, r.ID)
		if err := b.add(ctx, r, works); err != nil {
			return err
		}
	}
	for _, id := range ids { // gone since it was found, or long ago
		var named []work
		for _, w := range byID[id] {
			if w.id == "" {
				named = append(named, w)
			} else {
				b.e.log.Info("no such saga", "id", w.id, "step", w.input.Step)
			}
		}
		if named != nil {
			byKey = append(byKey, named)
		}
	}
	for _, k := range byKey {
		f := &folding{home: b.e.home(awaited(k[0])), works: k}
		if f.home != nil {
			b.open = append(b.open, f)
			continue
		}
		for _, w := range k { // only an operator can name a type that is not registered
			if err := b.e.await(f, w); err != nil {
				return err
			}
		}
	}
	return nil
}

// sort groups works by instance, each group in the order in which they came. A start goes the optimistic way, since
// its key is most likely free, unless it may write to the database at once.
func (b *batch) sort(ctx context.Context, round int) (byID map[string][]work, byKey [][]work, err error) {
	groups := map[store.Key][]work{}
	var order []store.Key
	var unknown []store.Key
	for _, w := range b.works {
		switch {
		case w.tick != nil:
			b.ticks = append(b.ticks, w.tick)
			continue
		case w.id != "":
			w.key = store.Key{Key: w.id} // no type: cannot be a key
		}
		if groups[w.key] == nil {
			order = append(order, w.key)
			if w.id == "" && (w.input.Kind != flow.Start || round > 0 || b.e.home(awaited(w)).graph.HasLocals()) {
				unknown = append(unknown, w.key)
			}
		}
		groups[w.key] = append(groups[w.key], w)
	}
	found, err := store.Find(ctx, unknown)
	if err != nil {
		return nil, nil, err
	}
	byID = map[string][]work{}
	for _, k := range order {
		switch id := found[k]; {
		case k.Type == "":
			byID[k.Key] = append(byID[k.Key], groups[k]...)
		case id != "":
			byID[id] = append(byID[id], groups[k]...)
		default:
			byKey = append(byKey, groups[k])
		}
	}
	return byID, byKey, nil
}

// awaited is the row of an instance that is not started.
func awaited(w work) *store.Row { return &store.Row{Type: w.key.Type, Status: store.Awaited} }

// locks reports whether any definition's transitions write to the host's database.
func (e *Engine) locks() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, k := range e.types {
		for _, h := range k.versions {
			if h.graph.HasLocals() {
				return true
			}
		}
	}
	return false
}

func (b *batch) add(ctx context.Context, r *store.Row, works []work) error {
	if r.Status == store.Awaited && len(works) == 1 && works[0].input.Kind == flow.Timer {
		return b.e.expire(ctx, r)
	}
	h := b.e.home(r)
	if h == nil {
		return cqrs.Later(unknownDelay, fmt.Errorf("%w: %s version %d", ErrUnknownVersion, r.Type, r.DefVersion))
	}
	b.open = append(b.open, &folding{row: r, home: h, works: works})
	return nil
}

const unknownDelay = 5 * time.Second

// store writes what changed: new instances, transitions, the journal, and the commands of those that were stored.
// Those that somebody else was faster with stay in works.
func (b *batch) store(ctx context.Context) error {
	b.works = nil
	var fresh, old []*store.Row
	for _, f := range b.open {
		switch {
		case !f.changed:
		case f.row == nil:
			fresh = append(fresh, f.next)
		default:
			old = append(old, f.next)
		}
	}
	inserted, err := store.Insert(ctx, fresh)
	if err != nil {
		return fmt.Errorf("saga: %w", err)
	}
	updated, err := store.Update(ctx, old)
	if err != nil {
		return fmt.Errorf("saga: %w", err)
	}
	var won []*folding
	for _, f := range b.open {
		switch {
		case !f.changed:
		case inserted[f.next.ID] || updated[f.next.ID]:
			won = append(won, f)
		case f.row == nil && f.home.graph.HasLocals():
			return fmt.Errorf("saga: %s %q: %w", f.next.Type, f.next.Key, errStarted)
		default:
			b.works = append(b.works, f.works...)
		}
	}
	if err := b.send(ctx, won); err != nil {
		return err
	}
	return b.journal(ctx, won)
}

// errStarted undoes what the locals of a start wrote that came second. The next run finds the first.
var errStarted = errors.New("somebody else starts it at this moment")

// send sends the commands of stored transitions that are not out yet. One that is refused suspends its instance
// instead.
func (b *batch) send(ctx context.Context, won []*folding) error {
	var poisoned []*store.Row
	for _, f := range won {
		if len(f.commands) == 0 {
			continue
		}
		err := b.e.work.Do(ctx, func(ctx context.Context) error { return b.e.sendAll(ctx, f) })
		if err == nil {
			continue
		}
		version := f.next.Version
		if err := b.e.suspend(f, err); err != nil {
			return err
		}
		f.next.Version = version + 1
		poisoned = append(poisoned, f.next)
	}
	updated, err := store.Update(ctx, poisoned)
	if err != nil {
		return fmt.Errorf("saga: %w", err)
	}
	if len(updated) != len(poisoned) {
		return fmt.Errorf("saga: %d poisoned instances cannot be suspended", len(poisoned)-len(updated))
	}
	return nil
}

func (e *Engine) sendAll(ctx context.Context, f *folding) (err error) {
	defer recovered(&err)
	for _, c := range f.commands {
		options := []cqrs.SendOption{cqrs.ReplyTo(e.p.ReplyTopic(), c.Token.String())}
		if !c.Deadline.IsZero() {
			options = append(options, cqrs.Deadline(c.Deadline))
		}
		ctx := cqrs.WithEnvelope(ctx, e.envelope(f, c.env))
		if err := e.p.Sender().Send(ctx, c.Message, options...); err != nil {
			return fmt.Errorf("%s: %w", c.Token.Step, err)
		}
	}
	f.commands = nil
	return nil
}

func (b *batch) journal(ctx context.Context, won []*folding) error {
	notes := make([]store.Note, 0, len(won))
	for _, f := range won {
		if len(f.entries) == 0 {
			continue
		}
		data, err := json.Marshal(f.entries)
		if err != nil {
			return fmt.Errorf("saga: encode journal: %w", err)
		}
		notes = append(notes, store.Note{Saga: f.next.ID, Version: f.next.Version, At: f.next.Updated, Entries: string(data)})
	}
	slices.SortFunc(notes, func(a, b store.Note) int { return strings.Compare(a.Saga, b.Saga) })
	if err := store.Journal(ctx, notes); err != nil {
		return fmt.Errorf("saga: %w", err)
	}
	return nil
}
