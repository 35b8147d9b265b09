package projection

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	"github.com/surge-go/surge/cqrs"
)

// An Event is an event with what is known of it.
type Event[E any] struct {
	Message  E
	Envelope cqrs.Envelope
	Topic    string
	Position cqrs.Position // zero if the bus has none, or while the archive is read
}

// On registers how events of a type change the read model. apply gets a batch of them in order, in the transaction
// of their checkpoint; its error, or panic, undoes the batch, which is tried again in halves. It may run more than
// once before it commits, so it does nothing that a rollback cannot undo. Its context ends with its transaction's time;
// if it does not return then, it holds up its partition, and the end of Run. A type may have several apply functions.
// Registration is over when Run begins; faults are kept for Run and Validate.
func On[E any](p *Projection, apply func(ctx context.Context, events []E) error) {
	p.register([]reflect.Type{reflect.TypeFor[E]()}, apply != nil, func(ctx context.Context, events []*event) error {
		batch := make([]E, len(events))
		for i, e := range events {
			batch[i] = e.delivery.Message.(E)
		}
		return apply(ctx, batch)
	})
}

// OnEvents is [On] for apply functions that want the envelopes too: for a version guard by time or ID, say.
func OnEvents[E any](p *Projection, apply func(ctx context.Context, events []Event[E]) error) {
	p.register([]reflect.Type{reflect.TypeFor[E]()}, apply != nil, func(ctx context.Context, events []*event) error {
		return apply(ctx, eventsAs[E](events))
	})
}

// OnMixed is [OnEvents] for several types at once: apply gets all events of the types of examples that follow one
// another in a partition, mixed as they came, so that it can fold them in memory and write once.
func OnMixed(p *Projection, apply func(ctx context.Context, events []Event[any]) error, examples ...any) {
	types := make([]reflect.Type, len(examples))
	for i, v := range examples {
		types[i] = reflect.TypeOf(v)
	}
	p.register(types, apply != nil, func(ctx context.Context, events []*event) error {
		return apply(ctx, eventsAs[any](events))
	})
}

func eventsAs[E any](events []*event) []Event[E] {
	batch := make([]Event[E], len(events))
	for i, e := range events {
		batch[i] = Event[E]{
			Message: e.delivery.Message.(E), Envelope: e.delivery.Envelope, Topic: e.delivery.Topic, Position: e.origin,
		}
	}
	return batch
}

// applier is one registered apply function, without its type.
type applier struct {
	apply func(ctx context.Context, events []*event) error
}

// A route is what events of some types go through. Types with the same apply functions share one.
type route struct{ appliers []*applier }

func (p *Projection) register(types []reflect.Type, given bool, apply func(context.Context, []*event) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fault := func(format string, args ...any) {
		p.faults = append(p.faults, fmt.Errorf("projection: %s: "+format, append([]any{p.name}, args...)...))
	}
	switch {
	case p.started:
		fault("apply function of %v registered after Run", types)
		return
	case !given:
		fault("apply function of %v is nil", types)
		return
	case len(types) == 0:
		fault("OnMixed needs examples")
	}
	a := &applier{apply}
	for i, t := range types {
		if slices.Contains(types[:i], t) {
			fault("an apply function gets %v twice", t)
			continue
		}
		info, ok := p.catalog.LookupType(orNothing(t))
		switch {
		case !ok:
			fault("%w: %v", cqrs.ErrUnknownType, t)
		case info.Kind != cqrs.KindEvent:
			fault("%q is a %s, not an event", info.Name, info.Kind)
		default:
			p.byType[info.Name] = append(p.byType[info.Name], a)
			p.reads[info.Topic] = true
		}
	}
}

// orNothing keeps a nil example from being looked up.
func orNothing(t reflect.Type) reflect.Type {
	if t == nil {
		return reflect.TypeFor[struct{}]()
	}
	return t
}

// makeRoutes ends registration; the caller holds mu.
func (p *Projection) makeRoutes() {
	p.started = true
	p.routes = make(map[string]*route, len(p.byType))
	var all []*route
	for name, appliers := range p.byType {
		i := slices.IndexFunc(all, func(r *route) bool { return slices.Equal(r.appliers, appliers) })
		if i < 0 {
			i = len(all)
			all = append(all, &route{appliers})
		}
		p.routes[name] = all[i]
	}
}

// apply runs the route's functions.
func (r *route) apply(ctx context.Context, events []*event) error {
	return contain(func() error {
		for _, a := range r.appliers {
			if err := a.apply(ctx, events); err != nil {
				return err
			}
		}
		return nil
	})
}

// A group is what one call of an apply function gets.
type group struct {
	route  *route
	events []*event
}

// groups splits a batch into calls. In partition order a call ends where the next event has another route; in key
// order an event joins the earliest call of its route that is not before a call with an event of its key.
func groups(batch []*event, keyOrder bool) []*group {
	var all []*group
	last := map[string]int{} // key → index of the call of its last event
	open := map[*route]int{} // route → index of its last call
	for _, e := range batch {
		i, ok := open[e.route]
		key := e.delivery.Envelope.Key
		late := keyOrder && key != "" && last[key] > i
		if !ok || late || !keyOrder && i != len(all)-1 {
			i = len(all)
			all = append(all, &group{route: e.route})
			open[e.route] = i
		}
		all[i].events = append(all[i].events, e)
		if key != "" {
			last[key] = i
		}
	}
	return all
}
