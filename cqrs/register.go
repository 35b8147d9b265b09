package cqrs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"
)

// handler is what was registered, without its type parameters.
type handler struct {
	name     string
	one      func(ctx context.Context, d *Delivery) (any, error)
	many     func(ctx context.Context, ds []*Delivery, results []any) error // sets Err of what fails alone
	exec     any                                                            // executor[R] of commands with a result
	check    func(any) error                                                // the catalog's validation, for Execute
	locks    func(any) []string
	skipDead bool
	timeout  time.Duration // 0: the processor's
	onReply  []func(context.Context, Envelope, Answer) error
	missing  bool // there is no function
}

// A HandlerOption is given when a handler is registered: [Locks], [SkipDead], [Timeout], [OnReply].
type HandlerOption struct{ apply func(*handler) }

// Locks names what a message will change beside its own key, rows that messages of other keys change too.
// A batch takes the union of its messages' locks, sorted, before the first handler runs, so that two batches never
// wait for each other in a circle. See [ProcessorConfig] for where the locks are. A command that is executed inside a
// handler does not wait for what that holds; inside a unit of work it takes locks only of a Locker.
func Locks[M any](f func(M) []string) HandlerOption {
	return HandlerOption{func(h *handler) {
		h.locks = func(v any) []string {
			if m, ok := v.(M); ok {
				return slices.Clone(f(m)) // to be sorted
			}
			return nil
		}
	}}
}

// SkipDead lets later messages of a key go on after a dead letter; without it they queue behind it until it is
// replayed or discarded. While a message is being retried they wait in either case.
func SkipDead() HandlerOption { return HandlerOption{func(h *handler) { h.skipDead = true }} }

// Timeout is [ProcessorConfig].HandlerTimeout for one handler. 0 means the processor's, negative none. A message with
// several handlers has the longest of theirs.
func Timeout(d time.Duration) HandlerOption { return HandlerOption{func(h *handler) { h.timeout = d }} }

// OnReply has f called whenever a command of this handler is answered, at once or by [Reply], in the transaction in
// which the reply is sent, whether or not anybody waits for it. An error of f undoes the handling.
func OnReply(f func(ctx context.Context, e Envelope, a Answer) error) HandlerOption {
	return HandlerOption{func(h *handler) { h.onReply = append(h.onReply, f) }}
}

// Handle registers the one handler of a command that returns a result. The same handler serves
// [Execute], [Call] and sagas. Faults are kept for Run and Validate.
//
// A handler may run more than once for a message, each time from a clean state: it must do nothing that a rollback
// cannot undo. It answers with its result, a [Rejection], [ErrDeferred] or [ErrNotExecuted]; everything else is a
// failure, which is retried ([Later]: without counting). It must not wait for the network.
func Handle[C Request[R], R any](p *Processor, h func(context.Context, C) (R, error), o ...HandlerOption) {
	t := reflect.TypeFor[C]()
	n := &handler{name: t.String(), missing: h == nil}
	n.one = func(ctx context.Context, d *Delivery) (any, error) { return h(ctx, d.Message.(C)) }
	n.exec = single[C, R]{h: n, fn: h}
	p.register(t, n, true, o)
}

// HandleBatch is Handle for handlers that gain from seeing all commands of a transaction. Items keep their keys'
// order. An error of h fails them all: they run again one by one. See [Item] for one that fails alone.
func HandleBatch[C Request[R], R any](
	p *Processor, h func(context.Context, []*Item[C, R]) error, o ...HandlerOption,
) {
	t := reflect.TypeFor[C]()
	n := &handler{name: t.String(), missing: h == nil}
	n.many = func(ctx context.Context, ds []*Delivery, results []any) error {
		all, items := make([]Item[C, R], len(ds)), make([]*Item[C, R], len(ds))
		for i, d := range ds {
			items[i] = &all[i]
			items[i].Message, items[i].Envelope = d.Message.(C), d.Envelope
		}
		if err := h(ctx, items); err != nil {
			return err
		}
		for i := range all { // not by items, which the handler may have sorted
			ds[i].Err, results[i] = all[i].err, all[i].result
		}
		return nil
	}
	n.exec = batched[C, R]{h: n, fn: h}
	p.register(t, n, true, o)
}

// An Item is one command of a batch. One that is neither replied to nor failed replies R's zero value.
type Item[C, R any] struct {
	Message  C
	Envelope Envelope
	result   R
	err      error
}

// Reply answers this item.
func (i *Item[C, R]) Reply(r R) { i.result = r }

// Fail fails this item alone. With a [Rejection] the batch stays as it is: the handler must have written nothing
// for the item. With any other error the whole call is undone and made again without the item.
func (i *Item[C, R]) Fail(err error) { i.err = err }

// On registers a handler of an event (as many as you like) or of a command that returns nothing (one).
// What Handle says of handlers holds here too. Handlers of one event succeed or fail together: a [Rejection] by one
// undoes what the others have done, and is final for all.
func On[M any](p *Processor, h func(context.Context, M) error, o ...HandlerOption) {
	t := reflect.TypeFor[M]()
	n := &handler{name: t.String(), missing: h == nil}
	n.one = func(ctx context.Context, d *Delivery) (any, error) { return nil, h(ctx, d.Message.(M)) }
	p.register(t, n, false, o)
}

// A Source tells where a consumer's messages come from.
type Source struct{ types, topics []string }

// FromTypes are the messages with these names, each on its topic, decoded.
func FromTypes(names ...string) Source { return Source{types: names} }

// FromTopic are all messages of a topic, whatever their type, not decoded unless somebody else handles them too.
func FromTopic(topic string) Source { return Source{topics: []string{topic}} }

type consumer struct {
	h    *handler
	from Source
}

// Consume registers a handler of batches; engines, such as that of package saga, are built on it. It runs in the
// transaction of the messages' lane. Deliveries keep their keys' order. An error of h fails them all: they run again
// one by one. A delivery whose Err it sets fails alone, as with [Item].Fail. Commands that it takes are not replied to.
func (p *Processor) Consume(h func(context.Context, []*Delivery) error, from ...Source) {
	n := &handler{name: "consumer"}
	n.many = func(ctx context.Context, ds []*Delivery, _ []any) error { return h(ctx, ds) }
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closedToRegistration("a consumer")
	if h == nil {
		p.faults = append(p.faults, errors.New("cqrs: a consumer without function"))
	}
	for _, f := range from {
		for _, name := range f.types {
			if p.sender.catalog.byName[name] == nil {
				p.faults = append(p.faults, fmt.Errorf("%w: consumer of %q", ErrUnknownType, name))
			}
		}
		if slices.Contains(f.topics, "") {
			p.faults = append(p.faults, errors.New("cqrs: consumer of a topic without name"))
		}
		p.consumers = append(p.consumers, consumer{h: n, from: f})
	}
}

func (p *Processor) register(t reflect.Type, h *handler, request bool, o []HandlerOption) {
	for _, option := range o {
		option.apply(h)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closedToRegistration(h.name)
	e := p.sender.catalog.byType[t]
	switch {
	case h.missing:
		p.faults = append(p.faults, fmt.Errorf("cqrs: the handler of %s is nil", t))
		return
	case e == nil && !request:
		p.faults = append(p.faults, fmt.Errorf("%w: handler of %s", ErrUnknownType, t))
		return
	case e != nil && request && e.Kind != KindCommand:
		p.faults = append(p.faults, fmt.Errorf("cqrs: %s is an event and cannot be answered", t))
		return
	case (request || e.Kind == KindCommand) && len(p.types[t]) > 0:
		p.faults = append(p.faults, fmt.Errorf("cqrs: two handlers of command %s", t))
		return
	}
	if e != nil && e.validate != nil {
		h.check = e.check
	}
	p.types[t] = append(p.types[t], h)
	if request {
		next := maps.Clone(*p.requests.Load())
		next[t] = h
		p.requests.Store(&next)
	}
}

func (p *Processor) closedToRegistration(what string) {
	if p.started.Load() {
		err := fmt.Errorf("cqrs: %s registered after Run", what)
		p.faults = append(p.faults, err)
		p.log.Error("registered too late", "error", err)
	}
}

// answering returns the handler that answers commands of this name, nil if there is none.
func (p *Processor) answering(name string) *handler {
	e := p.sender.catalog.byName[name]
	if e == nil || e.Kind != KindCommand {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if hs := p.types[e.Go]; len(hs) > 0 {
		return hs[0]
	}
	return nil
}
