package projection

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// A Projection builds one read model from events. It is safe for concurrent use. Several processes may run it at
// the same time; they share its partitions.
type Projection struct {
	name    string
	catalog *cqrs.Catalog
	work    cqrs.UnitOfWork
	store   Store
	bus     Bus
	cfg     Config
	log     *slog.Logger

	mu      sync.Mutex
	started bool
	byType  map[string][]*applier // by name
	reads   map[string]bool       // topics
	routes  map[string]*route     // by name; fixed when Run begins
	faults  []error

	running atomic.Bool
	live    atomic.Int64  // the live generation as last seen
	poke    chan struct{} // something may be ready for a swap
	stalls  sync.Map      // laneKey → error
	waiting waiters
	track   tracker
}

// New makes a projection. Its name is that of its model in the store and, with the generation's number, of its
// consumer groups: name.g1. What it writes commits in work, beside what others of the process write there.
func New(
	name string, catalog *cqrs.Catalog, work cqrs.UnitOfWork, store Store, bus Bus, cfg Config,
) (*Projection, error) {
	if name == "" || len(name) > maxName || storable(name) != name {
		return nil, fmt.Errorf("projection: New needs a name of up to %d bytes of UTF-8 without zero bytes, got %q",
			maxName, name)
	}
	if catalog == nil || work == nil || store == nil || bus == nil {
		return nil, errors.New("projection: New needs a catalog, a unit of work, a store and a bus")
	}
	if err := errors.Join(cfg.Validate(), catalog.Validate()); err != nil {
		return nil, err
	}
	p := &Projection{
		name: name, catalog: catalog, work: work, store: store, bus: bus, cfg: cfg.withDefaults(),
		byType: map[string][]*applier{}, reads: map[string]bool{}, poke: make(chan struct{}, 1),
	}
	p.log = p.cfg.Logger.With("projection", name)
	return p, nil
}

const maxName = 100

// Name returns the projection's name.
func (p *Projection) Name() string { return p.name }

// Validate joins every fault of registration.
func (p *Projection) Validate() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	faults := p.faults
	if len(p.byType) == 0 {
		faults = append(slices.Clone(faults), fmt.Errorf("projection: %s applies no events", p.name))
	}
	return errors.Join(faults...)
}

// topics returns what is subscribed to, sorted.
func (p *Projection) topics() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	topics := make([]string, 0, len(p.reads))
	for t := range p.reads {
		topics = append(topics, t)
	}
	slices.Sort(topics)
	return topics
}

// group names a generation's consumer group.
func (p *Projection) group(number int64) string { return p.name + ".g" + strconv.FormatInt(number, 10) }

// Live returns a context for queries of the live generation, see [Table] and [GenerationOf]. It reads the store
// every time, so a query sees a swap at once; a query that takes longer than Config.DropAfter may see its
// generation dropped. It returns [ErrNoModel] before the first Run.
func (p *Projection) Live(ctx context.Context) (context.Context, error) {
	m, err := p.store.Read(ctx, p.name)
	if err != nil {
		return nil, fmt.Errorf("projection: read model %s: %w", p.name, err)
	}
	g := m.generation(m.Live)
	if g == nil {
		return nil, fmt.Errorf("%w: %s", ErrNoModel, p.name)
	}
	return within(ctx, *g), nil
}

// Model returns the generations there are.
func (p *Projection) Model(ctx context.Context) (Model, error) {
	m, err := p.store.Read(ctx, p.name)
	if err != nil {
		return m, fmt.Errorf("projection: read model %s: %w", p.name, err)
	}
	return m, nil
}

// change changes the model, in a transaction, while nobody feeds any of its generations.
func (p *Projection) change(ctx context.Context, fn func(ctx context.Context, m *Model) error) (Model, error) {
	var m Model
	err := p.work.Do(ctx, func(ctx context.Context) (err error) {
		if m, err = p.store.Lock(ctx, p.name, true); err != nil {
			return err
		}
		if err := fn(ctx, &m); err != nil {
			return err
		}
		return p.store.Save(ctx, m)
	})
	if err == nil {
		p.live.Store(m.Live)
	}
	return m, err
}

// An event is a message on its way into the model.
type event struct {
	msg      *message.Message
	delivery cqrs.Delivery
	origin   cqrs.Position // as apply functions see it
	position int64         // in its lane; [None] on a bus without positions
	route    *route        // nil: nobody's business
	verdict  error         // why it cannot be applied
}

func (p *Projection) event(topic string, m *message.Message, position int64) *event {
	e := &event{msg: m, position: position, delivery: cqrs.Delivery{
		Envelope: cqrs.EnvelopeFrom(m), Topic: topic, Payload: m.Payload, Metadata: m.Metadata,
	}}
	if e.delivery.Envelope.Kind == cqrs.KindReply {
		return e
	}
	e.route = p.routes[e.delivery.Envelope.Type]
	return e
}

// decode decodes what is somebody's business, which is the application's code too.
func (p *Projection) decode(batch []*event) {
	for i := 0; i < len(batch); i++ {
		err := contain(func() error {
			for ; i < len(batch); i++ {
				if e := batch[i]; e.route != nil {
					e.delivery.Message, e.verdict = p.catalog.Decode(&e.delivery)
					_ = tried(e.verdict)
				}
			}
			return nil
		})
		if err != nil {
			batch[i].verdict = err
		}
	}
}
