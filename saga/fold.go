package saga

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga/internal/flow"
	"github.com/surge-go/surge/saga/internal/store"
)

// A folding is one instance in one transaction: its row, and everything that happens to it.
type folding struct {
	row      *store.Row // as loaded; nil: not there
	home     *home
	works    []work
	timer    bool // among the works
	next     *store.Row
	in       *flow.Instance
	commands []outgoing
	entries  []flow.Entry
	changed  bool
}

type outgoing struct {
	flow.Command
	env cqrs.Envelope // of what caused it
}

func (h *home) decode(r *store.Row) (*flow.Instance, error) {
	if int(r.DefVersion) == h.graph.Version {
		return h.graph.Decode(r.ID, []byte(r.State), []byte(r.Place))
	}
	return h.move(r)
}

// move brings an instance of an older version to this one.
func (h *home) move(r *store.Row) (*flow.Instance, error) {
	in := &flow.Instance{ID: r.ID}
	if err := json.Unmarshal([]byte(r.Place), &in.Cursor); err != nil {
		return nil, fmt.Errorf("decode cursor: %w", err)
	}
	state, step, err := h.moves[int(r.DefVersion)]([]byte(r.State), in.Cursor.Step())
	if err != nil {
		return nil, fmt.Errorf("move from version %d: %w", r.DefVersion, err)
	}
	in.State = state
	return in, h.graph.Move(in, step)
}

// fold lets everything happen to an instance, in order. A poisoned one is suspended: its row stays as it was, its
// messages are stashed.
func (e *Engine) fold(ctx context.Context, f *folding) error {
	err := e.foldApart(ctx, f)
	var stop *transient
	switch {
	case err == nil:
		return nil
	case errors.As(err, &stop):
		return stop.err
	}
	return e.suspend(f, err)
}

// foldApart folds instances whose locals write to the database in a part of their own, so that one that is suspended
// is undone with all that it wrote. What they send is sent within it, since that may be refused. It need not wait for
// the instance to be stored: such an instance is locked, or its start takes the transaction with it.
func (e *Engine) foldApart(ctx context.Context, f *folding) error {
	if !f.home.graph.HasLocals() {
		return e.tryFold(ctx, f)
	}
	return e.work.Do(ctx, func(ctx context.Context) error {
		if err := e.tryFold(ctx, f); err != nil {
			return err
		}
		return e.sendAll(ctx, f)
	})
}

// transient is an error that is the transaction's, not the instance's.
type transient struct{ err error }

func (t *transient) Error() string { return t.err.Error() }
func (t *transient) Unwrap() error { return t.err }

// recovered makes an error of a panic of the definition's code, or of what belongs to its messages. It is deferred.
func recovered(err *error) {
	if v := recover(); v != nil {
		*err = fmt.Errorf("%w: %v\n%s", flow.ErrPanic, v, debug.Stack())
	}
}

func (e *Engine) tryFold(ctx context.Context, f *folding) (err error) {
	defer recovered(&err)
	f.commands, f.entries, f.changed, f.in = nil, nil, false, nil
	if f.row != nil && f.row.Status != store.Awaited {
		in, err := f.home.decode(f.row)
		if err != nil {
			if in, err = e.unread(f, err); in == nil {
				return err
			}
		}
		f.in = in
		f.changed = int(f.row.DefVersion) != f.home.graph.Version
	}
	for _, w := range f.works {
		if err := e.step(ctx, f, w); err != nil {
			return err
		}
	}
	if !f.changed {
		return nil
	}
	return e.encode(f)
}

// step lets one thing happen.
func (e *Engine) step(ctx context.Context, f *folding, w work) error {
	switch {
	case f.in == nil && w.input.Kind == flow.Start:
		return e.begin(ctx, f, w)
	case w.input.Kind == flow.Start:
		return nil // started before
	case f.in == nil:
		return e.await(f, w)
	case w.op != nil:
		return e.operate(ctx, f, w)
	case f.in.Cursor.Suspended:
		return e.stash(f, w.input)
	}
	kept := len(f.in.Cursor.Stash)
	if err := e.apply(ctx, f, w); err != nil {
		return err
	}
	if len(f.in.Cursor.Stash) > kept {
		return e.bound(f.in.ID, kept)
	}
	return nil
}

// bound refuses to keep one more message.
func (e *Engine) bound(id string, kept int) error {
	if kept < e.cfg.MaxStash {
		return nil
	}
	return &transient{fmt.Errorf("saga: %s has %d messages in its stash already", id, kept)}
}

// begin starts an instance, and gives it what came before it.
func (e *Engine) begin(ctx context.Context, f *folding, w work) error {
	place, err := f.placeholder()
	if err != nil {
		return err
	}
	early := place.Stash
	id := newID()
	if f.row != nil {
		id = f.row.ID
	}
	if f.in, err = f.home.graph.Decode(id, w.state, []byte("{}")); err != nil {
		return err
	}
	f.in.Cursor.Origin = w.env.Correlation
	f.next = &store.Row{Tags: w.tags}
	if err := e.apply(ctx, f, w); err != nil {
		return err
	}
	for _, in := range early {
		if err := e.apply(ctx, f, work{input: in, env: w.env}); err != nil {
			return err
		}
	}
	return nil
}

// placeholder reads what waits for an instance that is not started.
func (f *folding) placeholder() (place flow.Cursor, err error) {
	from := f.next
	if from == nil {
		from = f.row
	}
	if from == nil {
		return place, nil
	}
	if err := json.Unmarshal([]byte(from.Place), &place); err != nil {
		return place, fmt.Errorf("decode cursor: %w", err)
	}
	return place, nil
}

// apply runs the interpreter. Locals run in a part of their own, so that one that fails is undone alone.
func (e *Engine) apply(ctx context.Context, f *folding, w work) error {
	if f.in.Cursor.Origin == "" {
		f.in.Cursor.Origin = w.env.Correlation
	}
	env := flow.Env{Now: e.now(), Decode: e.p.Catalog().Codec().Decode, Failed: nil}
	if !f.home.graph.HasLocals() {
		res, err := f.home.graph.Apply(f.in, w.input, env)
		return f.collect(res, w, err)
	}
	state, place, err := f.in.Encode()
	if err != nil {
		return err
	}
	for {
		var res flow.Result
		err := e.work.Do(ctx, func(ctx context.Context) error {
			in, err := f.home.graph.Decode(f.in.ID, state, place)
			if err != nil {
				return err
			}
			env.Local = func(n *flow.Node, state any) error {
				ctx := cqrs.WithEnvelope(ctx, e.envelope(f, w.env))
				return n.Run(ctx, state)
			}
			if res, err = f.home.graph.Apply(in, w.input, env); err == nil {
				f.in = in
			}
			return err
		})
		var local *flow.LocalError
		if !errors.As(err, &local) {
			return f.collect(res, w, err)
		}
		if ctx.Err() != nil { // the transaction's time is up, not one that the local set itself
			return &transient{err}
		}
		if env.Failed == nil {
			env.Failed = map[string]error{}
		}
		env.Failed[local.Node] = local.Err
	}
}

func (f *folding) collect(res flow.Result, w work, err error) error {
	if err != nil {
		return err
	}
	f.changed = f.changed || res.Changed
	f.timer = f.timer || w.input.Kind == flow.Timer
	f.entries = append(f.entries, res.Entries...)
	for _, c := range res.Commands {
		f.commands = append(f.commands, outgoing{c, w.env})
	}
	return nil
}

// envelope is in whose name an instance sends: as a consequence of env, within its own business transaction.
func (e *Engine) envelope(f *folding, env cqrs.Envelope) cqrs.Envelope {
	if env.ID == "" {
		env.ID = f.in.ID
	}
	if f.in.Cursor.Origin != "" {
		env.Correlation = f.in.Cursor.Origin
	}
	return env
}

// await keeps what comes for a saga that is not started: a placeholder, which the start adopts. A reply has no
// placeholder: it comes for an instance that was purged.
func (e *Engine) await(f *folding, w work) error {
	if w.op != nil {
		w.op.err = fmt.Errorf("%w: %s %q", ErrNotFound, w.key.Type, w.key.Key)
		return nil
	}
	if w.key.Key == "" || (w.input.Kind != flow.Event && w.input.Kind != flow.Stop) {
		return nil
	}
	place, err := f.placeholder()
	if err != nil {
		return err
	}
	if len(place.Stash) >= e.cfg.MaxStash {
		return &transient{fmt.Errorf("saga: %d messages wait for %s %q already", len(place.Stash), w.key.Type, w.key.Key)}
	}
	place.Stash = append(place.Stash, w.input)
	data, err := json.Marshal(&place)
	if err != nil {
		return err
	}
	f.changed = true
	f.next = &store.Row{
		Type: w.key.Type, Key: w.key.Key, Status: store.Awaited, State: "{}", Place: string(data),
		Due: e.now().Add(e.cfg.Early).UnixMilli(),
	}
	if f.row != nil {
		f.next.ID, f.next.Due = f.row.ID, f.row.Due
	}
	f.entries = append(f.entries, flow.Entry{What: "early", Note: string(w.input.Kind) + " " + w.input.Event})
	return nil
}

func (e *Engine) stash(f *folding, in flow.Input) error {
	if in.Kind == flow.Timer {
		return nil
	}
	if err := e.bound(f.in.ID, len(f.in.Cursor.Stash)); err != nil {
		return err
	}
	f.in.Cursor.Stash = append(f.in.Cursor.Stash, in)
	f.entries = append(f.entries, flow.Entry{What: "stash", Step: in.Step, Note: string(in.Kind)})
	f.changed = true
	return nil
}

// suspend takes a poisoned instance out of the way: the batch goes on without it, and nothing that came is lost.
func (e *Engine) suspend(f *folding, cause error) error {
	if f.row == nil || f.row.Status == store.Awaited { // it never began: whoever wanted to start it hears why
		return fmt.Errorf("saga: start %s %q: %w", f.works[0].key.Type, f.works[0].key.Key, cause)
	}
	e.log.Error("saga suspended", "type", f.row.Type, "id", f.row.ID, "error", cause)
	var place flow.Cursor
	if err := json.Unmarshal([]byte(f.row.Place), &place); err != nil {
		return fmt.Errorf("saga: %s has an unreadable place: %w", f.row.ID, err)
	}
	place.Suspended, place.Reason = true, firstLine(cause.Error())
	for _, w := range f.works {
		if w.op != nil {
			w.op.err = cause
			continue
		}
		if w.input.Kind != flow.Timer && w.input.Kind != flow.Start {
			place.Stash = append(place.Stash, w.input)
		}
	}
	data, err := json.Marshal(&place)
	if err != nil {
		return err
	}
	next := *f.row
	next.Place, next.Status, next.Reason, next.Due = string(data), string(Suspended), place.Reason, 0
	f.next, f.changed, f.commands = &next, true, nil
	f.entries = []flow.Entry{{What: "suspended", Note: place.Reason}}
	return e.stamp(f)
}

// encode makes the row that is stored.
func (e *Engine) encode(f *folding) error {
	if f.in == nil { // still a placeholder
		return e.stamp(f)
	}
	c := &f.in.Cursor
	c.Reason = storable(c.Reason, maxReason)
	state, place, err := f.in.Encode()
	if err != nil {
		return err
	}
	next := store.Row{
		ID: f.in.ID, DefVersion: int64(f.home.graph.Version), Status: string(statusOf(c)), Step: c.Step(),
		Reason: c.Reason, State: string(state), Place: string(place), Due: c.Due(),
	}
	if f.next != nil {
		next.Tags = f.next.Tags
	}
	// An early timer costs a look; moving an indexed column costs every step. So a deadline that only moves later
	// stays where it is until it fires.
	if r := f.row; r != nil && r.Status != store.Awaited && !f.timer && r.Due != 0 && next.Due > r.Due {
		next.Due = r.Due
	}
	f.next = &next
	return e.stamp(f)
}

// stamp fills in what every stored row has.
func (e *Engine) stamp(f *folding) error {
	now, n := e.now().UnixMilli(), f.next
	n.Updated, n.Created, n.Version = now, now, 1
	if n.ID == "" {
		n.ID = newID()
	}
	if f.row != nil {
		n.ID, n.Type, n.Key, n.Created, n.Version = f.row.ID, f.row.Type, f.row.Key, f.row.Created, f.row.Version+1
		if f.row.Status != store.Awaited {
			n.Tags = f.row.Tags
		}
	} else {
		n.Type, n.Key = f.works[0].key.Type, f.works[0].key.Key
	}
	n.Ended = 0
	if Status(n.Status).Ended() {
		n.Ended = now
	}
	return nil
}

// firstLine leaves out the stack of a panic.
func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return storable(s, maxReason)
}

const maxReason = 500

// storable makes a text of others' making one that every database takes: valid UTF-8 without NUL, of so many bytes.
func storable(s string, n int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) <= n {
		return s
	}
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func newID() string {
	id, err := uuid.NewV7()
	if err != nil {
		id = uuid.New()
	}
	return id.String()
}
