package effect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/surge-go/surge/cqrs"
)

// ErrNotSeen is returned by [Effect.Ask] when the provider has never seen the key: it is then sent again.
var ErrNotSeen = errors.New("effect: the provider has not seen the key")

// An Effect is a command C, answered by an R, whose work happens outside the database: a payment provider, a
// mail, a shipment label. I is what is recorded of it (the intent), O what the provider answers. C, I and O
// stay in memory or are kept as JSON; the intent must not need anything that JSON loses.
type Effect[C cqrs.Request[R], R, I, O any] struct {
	// Name identifies the effect in the store, for ever; required, unique in a database. At most 200 characters.
	Name string
	// Intent runs in the command's shared transaction: it validates, notes that the effect is under way, and
	// returns the key under which the provider knows the effect, which must be the same whenever the same
	// effect is asked for, and has at most 255 characters. Its errors are those of a handler. Required.
	Intent func(ctx context.Context, cmd C) (key string, intent I, err error)
	// Call makes the effect, outside of any transaction, with a deadline in ctx. It may be called again with
	// the same key, which the provider must take for the same effect. A [cqrs.Rejection] is the provider's
	// definite no; [Config.Outcome] reads other errors. One that has not returned a second after its deadline is
	// left behind, in doubt: it may be repeated while it goes on, and what it returns later is ignored. Required.
	Call func(ctx context.Context, key string, intent I) (O, error)
	// Ask asks what became of a call in doubt: the provider's answer, a [cqrs.Rejection], [ErrNotSeen], or an
	// error when it cannot tell now. nil means that calls in doubt are sent again under the same key. It has a
	// deadline, like Call.
	Ask func(ctx context.Context, key string, intent I) (O, error)
	// Settle runs in a shared transaction once the provider has answered: it applies the answer, and what it
	// returns is the reply. A [cqrs.Rejection] undoes what it wrote and is the reply; after any other error
	// it runs again. Required.
	Settle func(ctx context.Context, cmd C, intent I, out O) (R, error)
	// Refuse runs in a shared transaction once the provider has said no: it applies that, and no is the reply.
	// nil applies nothing.
	Refuse func(ctx context.Context, cmd C, intent I, no *cqrs.Rejection) error
	// Keep is how long the provider remembers the key; an intent that is older is parked for an operator,
	// because sending it again could repeat the effect. 0 means 24 h.
	Keep time.Duration
	// Timeout bounds one call. 0 means [Config.Timeout]. At most a third of [Config.Lease].
	Timeout time.Duration
}

func (e *Effect[C, R, I, O]) validate() error {
	var faults []error
	if err := storable(e.Name, maxName); err != nil {
		faults = append(faults, fmt.Errorf("effect: Effect.Name %w", err))
	}
	for name, missing := range map[string]bool{
		"Intent": e.Intent == nil, "Call": e.Call == nil, "Settle": e.Settle == nil,
	} {
		if missing {
			faults = append(faults, fmt.Errorf("effect: %q: Effect.%s is nil", e.Name, name))
		}
	}
	if e.Keep < 0 || e.Timeout < 0 {
		faults = append(faults, fmt.Errorf("effect: %q: Effect.Keep is %v and Timeout %v, neither may be negative",
			e.Name, e.Keep, e.Timeout))
	}
	return errors.Join(faults...)
}

// Handler registers an effect with r and returns the command's handler, for [cqrs.Handle] or a saga's
// participant: it records the intent in the command's transaction and returns [cqrs.ErrDeferred]. The reply
// is sent when the runner has settled the intent. It is that of the command being handled: who calls the handler within
// that of another command returns [cqrs.ErrDeferred] there, too. Register every effect before r runs.
func Handler[C cqrs.Request[R], R, I, O any](r *Runner, e Effect[C, R, I, O]) func(context.Context, C) (R, error) {
	if e.Keep == 0 {
		e.Keep = 24 * time.Hour
	}
	r.register(e.Name, e.Timeout, e.validate(), &kind[C, R, I, O]{e})
	return func(ctx context.Context, cmd C) (R, error) {
		var none R
		key, intent, err := e.Intent(ctx, cmd)
		if err != nil {
			return none, err
		}
		rec := &Record{Name: e.Name, Key: key, Keep: e.Keep, Envelope: r.envelope(ctx, cmd)}
		if err := rec.fill(cmd, intent); err != nil {
			return none, err
		}
		if err := r.record(ctx, rec); err != nil {
			return none, err
		}
		return none, cqrs.ErrDeferred
	}
}

func (rec *Record) fill(cmd, intent any) (err error) {
	if err := storable(rec.Key, maxKey); err != nil {
		return fmt.Errorf("effect: %s: the key that Intent returned %w", rec.Name, err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("effect: %s: %w", rec.Name, err)
	}
	rec.ID = id.String()
	if rec.Command, err = json.Marshal(cmd); err != nil {
		return fmt.Errorf("effect: %s: encode the command: %w", rec.Name, err)
	}
	if rec.Intent, err = json.Marshal(intent); err != nil {
		return fmt.Errorf("effect: %s: encode the intent: %w", rec.Name, err)
	}
	return nil
}

const maxName, maxKey = 200, 255 // characters that every store keeps

// storable says why a text cannot be stored.
func storable(s string, limit int) error {
	switch n := utf8.RuneCountInString(s); {
	case s == "":
		return errors.New("is empty")
	case n > limit:
		return fmt.Errorf("has %d characters, at most %d are allowed", n, limit)
	case !utf8.ValidString(s) || strings.Contains(s, "\x00"):
		return fmt.Errorf("is %q, which is no UTF-8 without zero bytes", s)
	}
	return nil
}

// A settlement applies a provider's answer, in a transaction, and returns the reply.
type settlement struct {
	apply func(ctx context.Context) (result any, err error)
	no    *cqrs.Rejection // the provider's; nil means yes
}

// errUnreadable marks an intent that no number of attempts will carry out.
var errUnreadable = errors.New("effect: the stored intent cannot be read")

// kind carries an effect's types past the runner, which has none.
type kind[C cqrs.Request[R], R, I, O any] struct{ e Effect[C, R, I, O] }

// call makes the outside call, or asks about an earlier one. An error means that nothing is to be settled yet.
func (k *kind[C, R, I, O]) call(ctx context.Context, rec *Record) (*settlement, error) {
	var cmd C
	var intent I
	err := errors.Join(json.Unmarshal(rec.Command, &cmd), json.Unmarshal(rec.Intent, &intent))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	out, err := k.obtain(ctx, rec, intent)
	no := cqrs.AsRejection(err)
	if err != nil && no == nil {
		return nil, err
	}
	if no != nil {
		return k.refusal(cmd, intent, no), nil
	}
	return &settlement{apply: func(ctx context.Context) (any, error) {
		return k.e.Settle(ctx, cmd, intent, out)
	}}, nil
}

func (k *kind[C, R, I, O]) refusal(cmd C, intent I, no *cqrs.Rejection) *settlement {
	return &settlement{no: no, apply: func(ctx context.Context) (any, error) {
		if k.e.Refuse == nil {
			return nil, nil
		}
		return nil, k.e.Refuse(ctx, cmd, intent, no)
	}}
}

func (k *kind[C, R, I, O]) obtain(ctx context.Context, rec *Record, intent I) (O, error) {
	if rec.Doubt && k.e.Ask != nil {
		out, err := k.e.Ask(ctx, rec.Key, intent)
		if !errors.Is(err, ErrNotSeen) {
			return out, asked(err)
		}
	}
	return k.e.Call(ctx, rec.Key, intent)
}

// An askError is a question that failed: whatever became of the question, the call is as much in doubt as before.
type askError struct{ err error }

func asked(err error) error {
	if err == nil || cqrs.AsRejection(err) != nil {
		return err
	}
	return &askError{err}
}

// Error says that it was the question that failed.
func (e *askError) Error() string { return "effect: ask: " + e.err.Error() }

// Unwrap returns the question's error.
func (e *askError) Unwrap() error { return e.err }
