package saga

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga/internal/flow"
	"github.com/surge-go/surge/saga/internal/store"
)

// Saga is a definition at home in an engine. It is safe for concurrent use.
type Saga[S any] struct {
	e *Engine
	d *Definition[S]
}

// Migration moves instances of an older version, state and place, to the current one. It happens when the next
// message for an instance comes.
type Migration[S any] struct {
	From int // the older version
	// Move gets the encoded state and the step the instance is at ("" if it is between steps) and returns the new
	// state and the step of the new graph at which it goes on. Steps before that one count as done if they were
	// done under the same name, else as passed. A step that keeps its name keeps its command in flight, and a Sub its
	// state; what a step did whose name is gone is not undone any more. An instance that is being undone or cancelled
	// goes on only if every step that it has done is still there; else it is suspended.
	Move func(old []byte, step string) (S, string, error)
}

// Start starts an instance in the unit of work in ctx; it is there, and its first commands leave, when that commits.
// A second start with the same key does nothing, for as long as the first is kept (EngineConfig.Keep). The key has 1 to
// 255 bytes of UTF-8 without zero bytes, and no space at its end. Tags are for operators to find it by; they contain no
// "|". Without a unit of work it returns uow.ErrNoTransaction.
func (s *Saga[S]) Start(ctx context.Context, key string, state S, tags ...string) error {
	w, err := s.starting(key, state, tags)
	if err != nil {
		return err
	}
	return s.e.take(ctx, w)
}

func (s *Saga[S]) starting(key string, state S, tags []string) (w work, err error) {
	w.key, w.input.Kind = store.Key{Type: s.d.graph.Name, Key: key}, flow.Start
	if w.state, err = json.Marshal(&state); err != nil {
		return w, fmt.Errorf("saga: start %s %q: encode state: %w", w.key.Type, key, err)
	}
	for _, t := range tags {
		if t == "" || !isText(t) || strings.Contains(t, "|") {
			return w, fmt.Errorf("saga: start %s %q: tag %q is empty, no text, or contains \"|\"", w.key.Type, key, t)
		}
		w.tags += "|" + t + "|"
	}
	return w, s.checkKey("start", key)
}

const maxKey = 255

// checkKey refuses what a database does not take, or takes for another: MySQL ignores spaces at the end.
func (s *Saga[S]) checkKey(what, key string) error {
	switch {
	case key == "" || len(key) > maxKey:
		return fmt.Errorf("saga: %s %s: the key has %d bytes, must have 1 to %d", what, s.d.graph.Name, len(key), maxKey)
	case !isText(key) || strings.HasSuffix(key, " "):
		return fmt.Errorf("saga: %s %s: the key %q is no text, or ends in a space", what, s.d.graph.Name, key)
	}
	return nil
}

func isText(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

// Signal gives an instance an event that it waits for, as if it had come from a topic, in the unit of work in ctx.
// The key is one for [Saga.Start].
func (s *Saga[S]) Signal(ctx context.Context, key string, event any) error {
	if err := s.checkKey("signal", key); err != nil {
		return err
	}
	t := elem(reflect.TypeOf(event))
	nodes := s.d.graph.Waits()[nameOf(t)]
	if nodes == nil || elem(nodes[0].Message) != t {
		return fmt.Errorf("saga: signal %s: it waits for no %T", s.d.graph.Name, event)
	}
	payload, err := s.e.p.Catalog().Codec().Encode(event)
	if err != nil {
		return fmt.Errorf("saga: signal %s: %w", s.d.graph.Name, err)
	}
	return s.e.take(ctx, work{
		key:   store.Key{Type: s.d.graph.Name, Key: key},
		input: flow.Input{Kind: flow.Event, Event: nodes[0].Gets, Payload: payload},
	})
}

// Cancel asks an instance to end, in the unit of work in ctx. Where the instance stands when the request reaches it
// decides what that means: see [OnCancel]. A request for one that is not there, not started yet or purged, waits for a
// start as EngineConfig.Early says. The key is one for [Saga.Start].
func (s *Saga[S]) Cancel(ctx context.Context, key, reason string) error {
	if err := s.checkKey("cancel", key); err != nil {
		return err
	}
	return s.e.take(ctx, work{
		key:   store.Key{Type: s.d.graph.Name, Key: key},
		input: flow.Input{Kind: flow.Stop, Text: reason},
	})
}

// Get returns an instance, or [ErrNotFound]. Inside a unit of work it reads what that sees; instances that were
// started in the same one are not there yet. One of another version is read by the definition that it goes on by,
// which must have a state of the same type; without such a definition the error is [ErrUnknownVersion].
func (s *Saga[S]) Get(ctx context.Context, key string) (Instance[S], error) {
	var out Instance[S]
	err := s.e.within(ctx, func(ctx context.Context) error {
		r, err := s.e.load(ctx, s.d.graph.Name, key)
		if err != nil {
			return err
		}
		out, err = s.instance(r)
		return err
	})
	return out, err
}

// Mermaid draws an instance's definition, colored by what became of each node. Errors are those of Get.
func (s *Saga[S]) Mermaid(ctx context.Context, key string) (string, error) {
	var out string
	err := s.e.within(ctx, func(ctx context.Context) error {
		r, err := s.e.load(ctx, s.d.graph.Name, key)
		if err != nil {
			return err
		}
		h := s.e.home(r)
		if h == nil {
			return fmt.Errorf("%w: %s version %d", ErrUnknownVersion, r.Type, r.DefVersion)
		}
		in, err := h.decode(r)
		if err == nil {
			out = h.graph.Mermaid(&in.Cursor)
		}
		return err
	})
	return out, err
}

func (s *Saga[S]) instance(r *store.Row) (Instance[S], error) {
	h := s.e.home(r)
	if h == nil {
		return Instance[S]{}, fmt.Errorf("%w: %s version %d", ErrUnknownVersion, r.Type, r.DefVersion)
	}
	in, err := h.decode(r)
	if err != nil {
		return Instance[S]{}, fmt.Errorf("saga: read %s %q: %w", r.Type, r.Key, err)
	}
	if _, ok := in.State.(*S); !ok {
		return Instance[S]{}, fmt.Errorf("saga: read %s %q: version %d has a state of another type, %T",
			r.Type, r.Key, h.graph.Version, in.State)
	}
	i := s.d.Snapshot(r.Key, in)
	i.Version, i.Tags = h.graph.Version, splitTags(r.Tags)
	return i, nil
}

func splitTags(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.Trim(s, "|"), "||")
}

// load reads an instance that was started.
func (e *Engine) load(ctx context.Context, typ, key string) (*store.Row, error) {
	k := store.Key{Type: typ, Key: key}
	ids, err := store.Find(ctx, []store.Key{k})
	if err != nil {
		return nil, err
	}
	rows, err := store.Load(ctx, []string{ids[k]}, false)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 || rows[0].Status == store.Awaited {
		return nil, fmt.Errorf("%w: %s %q", ErrNotFound, typ, key)
	}
	return rows[0], nil
}

// within runs fn in the unit of work in ctx, or in one of its own.
func (e *Engine) within(ctx context.Context, fn func(context.Context) error) error {
	if uow.In(ctx) {
		return fn(ctx)
	}
	return e.work.Do(ctx, fn)
}

// StartOn starts an instance for every event E. The key makes that exactly once. Register it for the newest version
// of a saga only. An event with a key that [Saga.Start] refuses becomes a dead letter; so with [CancelOn] and [Wait].
func StartOn[S, E any](s *Saga[S], f func(E) (key string, state S)) {
	on(s.e, func(event E, _ *cqrs.Delivery) ([]work, error) {
		key, state := f(event)
		w, err := s.starting(key, state, nil)
		return []work{w}, err
	})
}

// CancelOn asks the instance with the key to cancel, for every event E; an empty key asks nobody.
func CancelOn[S, E any](s *Saga[S], f func(E) (key, reason string)) {
	on(s.e, func(event E, d *cqrs.Delivery) ([]work, error) {
		key, reason := f(event)
		if key == "" {
			return nil, nil
		}
		if err := s.checkKey("cancel", key); err != nil {
			return nil, err
		}
		w := work{
			key:   store.Key{Type: s.d.graph.Name, Key: key},
			input: flow.Input{Kind: flow.Stop, Text: reason},
		}
		w.keep(d)
		return []work{w}, nil
	})
}

func on[E any](e *Engine, f func(E, *cqrs.Delivery) ([]work, error)) {
	e.listen(reflect.TypeFor[E](), func(m any, d *cqrs.Delivery) ([]work, error) {
		switch v := m.(type) {
		case E:
			return f(v, d)
		case *E:
			return f(*v, d)
		}
		return nil, fmt.Errorf("saga: a message %q of type %T", d.Envelope.Type, m)
	})
}

// listen subscribes to the events that the definition waits for, and checks the types of its commands.
func (s *Saga[S]) listen(k *kind) {
	g := s.d.graph
	for _, t := range g.Commands() {
		if info, ok := s.e.p.Catalog().LookupType(t); !ok || info.Kind != cqrs.KindCommand {
			s.e.fault("%s sends %s, which is no command in the catalog", g.Name, t)
		}
	}
	for _, nodes := range g.Waits() {
		var keyed []*flow.Node
		for _, n := range nodes {
			if n.Key != nil {
				keyed = append(keyed, n)
			}
		}
		if keyed == nil {
			continue
		}
		t := keyed[0].Message
		old := k.hears[t]
		if old == nil {
			s.e.listenLocked(t, s.hearing(k, t))
		}
		if old == nil || old.version < g.Version {
			k.hears[t] = &heard{keyed, g.Version}
		}
	}
}

// hearing makes one work out of an event for each instance that it is for, however many nodes and versions of the saga
// wait for it: whichever the instance has.
func (s *Saga[S]) hearing(k *kind, t reflect.Type) listener {
	e := s.e
	return func(m any, d *cqrs.Delivery) ([]work, error) {
		payload, err := e.p.Catalog().Codec().Encode(m)
		if err != nil {
			return nil, fmt.Errorf("saga: %s: %w", d.Envelope.Type, err)
		}
		e.mu.Lock()
		h := k.hears[t]
		e.mu.Unlock()
		var works []work
		for _, n := range h.nodes {
			key := n.Key(m)
			if key == "" || slices.ContainsFunc(works, func(w work) bool { return w.key.Key == key }) {
				continue
			}
			if err := s.checkKey("event for", key); err != nil {
				return nil, err
			}
			w := work{
				key:   store.Key{Type: s.d.graph.Name, Key: key},
				input: flow.Input{Kind: flow.Event, Event: n.Gets, Payload: payload},
			}
			w.keep(d)
			works = append(works, w)
		}
		return works, nil
	}
}

func (e *Engine) listen(t reflect.Type, l listener) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.listenLocked(t, l)
}

func (e *Engine) listenLocked(t reflect.Type, l listener) {
	info, ok := e.p.Catalog().LookupType(t)
	if !ok {
		e.fault("event %s is not in the catalog", t)
		return
	}
	if e.listeners[info.Name] == nil {
		e.p.Consume(e.events, cqrs.FromTypes(info.Name))
	}
	e.listeners[info.Name] = append(e.listeners[info.Name], l)
}
