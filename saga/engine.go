package saga

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga/internal/flow"
	"github.com/surge-go/surge/saga/internal/store"
)

// An Engine advances sagas with the messages that its processor consumes, in the same transactions: whatever a
// transaction brought for any number of sagas is folded in memory, one after the other, and stored by one update of
// instances, one insert into the journal and one insert into the outbox. It is safe for concurrent use.
type Engine struct {
	p    *cqrs.Processor
	work cqrs.UnitOfWork
	cfg  EngineConfig
	log  *slog.Logger

	mu        sync.Mutex
	types     map[string]*kind
	listeners map[string][]listener // by event name
	faults    []error

	recorded atomic.Bool
	offset   atomic.Int64 // of the database's clock, milliseconds
	late     atomic.Int64 // until when timers are held back, unix milliseconds of this process
}

// A kind is a saga's type: the versions of its definition that are registered here.
type kind struct {
	versions map[int]*home
	newest   *home
	hears    map[reflect.Type]*heard
}

// A heard is an event from a topic that a kind waits for, as the newest version that does so has it.
type heard struct {
	nodes   []*flow.Node // with a Key
	version int
}

// A home is one definition in an engine.
type home struct {
	graph *flow.Graph
	// move brings an instance of an older version here; by that version.
	moves map[int]func(state []byte, step string) (any, string, error)
}

// A listener makes works out of an event.
type listener func(message any, d *cqrs.Delivery) ([]work, error)

// NewEngine takes the processor whose group hosts the sagas, which has no other engine. It needs a unit of work of
// outbox/uow, and a sender over an outbox in the same database.
func NewEngine(p *cqrs.Processor, cfg EngineConfig) (*Engine, error) {
	if p == nil || p.UnitOfWork() == nil {
		return nil, errors.New("saga: NewEngine needs a processor with a unit of work")
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	e := &Engine{
		p: p, work: p.UnitOfWork(), cfg: cfg.withDefaults(),
		types: map[string]*kind{}, listeners: map[string][]listener{},
	}
	e.log = e.cfg.Logger.With("group", p.Group())
	p.Consume(e.replies, cqrs.FromTopic(p.ReplyTopic()))
	p.Remember("the saga engine", e.cfg.Keep)
	return e, nil
}

// Register adds a definition, and how instances of older versions become instances of it. Older definitions may be
// registered too: their instances go on by them, while new ones start by the newest. An event that several of them wait
// for goes where the newest one's Key says. Faults are kept for [Engine.Run] and [Engine.Validate].
func Register[S any](e *Engine, d *Definition[S], m ...Migration[S]) *Saga[S] {
	h := &home{graph: d.graph, moves: map[int]func([]byte, string) (any, string, error){}}
	for _, m := range m {
		h.moves[m.From] = func(old []byte, step string) (any, string, error) {
			s, step, err := m.Move(old, step)
			return &s, step, err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	k := e.types[d.graph.Name]
	if k == nil {
		k = &kind{versions: map[int]*home{}, hears: map[reflect.Type]*heard{}}
		e.types[d.graph.Name] = k
	}
	if k.versions[d.graph.Version] != nil {
		e.fault("%s version %d is registered twice", d.graph.Name, d.graph.Version)
	}
	k.versions[d.graph.Version] = h
	if k.newest == nil || k.newest.graph.Version < d.graph.Version {
		k.newest = h
	}
	s := &Saga[S]{e: e, d: d}
	s.listen(k)
	return s
}

// fault is called with mu held.
func (e *Engine) fault(format string, a ...any) {
	e.faults = append(e.faults, fmt.Errorf("saga: "+format, a...))
}

// Validate joins every fault of registration: an event or command that is not in the catalog, a version that is
// registered twice.
func (e *Engine) Validate() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return errors.Join(e.faults...)
}

// Types returns the names of the registered sagas, sorted.
func (e *Engine) Types() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]string, 0, len(e.types))
	for name := range e.types {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// home finds the definition that a row goes on by: its own version's, or one that it can move to.
func (e *Engine) home(r *store.Row) *home {
	e.mu.Lock()
	defer e.mu.Unlock()
	k := e.types[r.Type]
	if k == nil {
		return nil
	}
	if r.Status == store.Awaited {
		return k.newest
	}
	if h := k.versions[int(r.DefVersion)]; h != nil {
		return h
	}
	if k.newest.moves[int(r.DefVersion)] != nil {
		return k.newest
	}
	return nil
}

// known lists what has a home here.
func (e *Engine) known() []store.Known {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []store.Known
	for name, k := range e.types {
		list = append(list, store.Known{Type: name}) // placeholders
		for v := range k.versions {
			list = append(list, store.Known{Type: name, Version: v})
		}
		for v := range k.newest.moves {
			list = append(list, store.Known{Type: name, Version: v})
		}
	}
	return list
}

// record checks the definitions against those of other processes, and notes the new ones, once.
func (e *Engine) record(ctx context.Context) error {
	if e.recorded.Load() {
		return nil
	}
	if err := e.Validate(); err != nil {
		return err
	}
	e.mu.Lock()
	var mine []store.Definition
	for name, k := range e.types {
		for v, h := range k.versions {
			mine = append(mine, store.Definition{
				Type: name, Version: int64(v), Hash: h.graph.Hash, Graph: h.graph.Mermaid(nil),
			})
		}
	}
	e.mu.Unlock()
	known, err := store.Record(ctx, mine)
	if err != nil {
		return fmt.Errorf("saga: record definitions: %w", err)
	}
	for _, d := range mine {
		i := slices.IndexFunc(known, func(k store.Definition) bool { return k.Type == d.Type && k.Version == d.Version })
		if i >= 0 && known[i].Hash != d.Hash {
			return fmt.Errorf("%w: %s version %d", ErrChanged, d.Type, d.Version)
		}
	}
	if err := e.readClock(ctx); err != nil {
		return err
	}
	return uow.AfterCommit(ctx, func() { e.recorded.Store(true) })
}

// readClock measures how far the database's clock is from ours, so that due times are counted by the one that they
// are compared with.
func (e *Engine) readClock(ctx context.Context) error {
	ms, known, err := store.Clock(ctx)
	if err != nil {
		return fmt.Errorf("saga: read the database's clock: %w", err)
	}
	if known {
		e.offset.Store(ms - time.Now().UnixMilli())
	}
	return nil
}

// now is the time by the database's clock.
func (e *Engine) now() time.Time {
	return time.Now().Add(time.Duration(e.offset.Load()) * time.Millisecond)
}
