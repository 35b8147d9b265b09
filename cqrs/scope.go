package cqrs

import (
	"context"
	"sync"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

type scopeKey struct{}

// scope is the context of a handler: one allocation for the envelope and everything that hangs on it.
type scope struct {
	context.Context
	env  *Envelope // of the message; nil for an executed command until somebody asks
	inTx bool
	once sync.Once
}

// Value finds the scope itself, else what the surrounding context has.
func (s *scope) Value(key any) any {
	if key == (scopeKey{}) {
		return s
	}
	return s.Context.Value(key)
}

func scopeOf(ctx context.Context) *scope {
	s, _ := ctx.Value(scopeKey{}).(*scope)
	return s
}

// unitScope returns ctx with a scope that says, if inTx, that it is inside a unit of work.
func unitScope(ctx context.Context, inTx bool) context.Context {
	outer := scopeOf(ctx)
	switch {
	case outer == nil:
		return &scope{Context: ctx, inTx: inTx}
	case inTx && !outer.inTx:
		return &scope{Context: ctx, inTx: true, env: outer.origin()}
	}
	return ctx
}

// origin is what messages sent in this scope refer to.
func (s *scope) origin() *Envelope {
	s.once.Do(func() {
		var env Envelope
		if s.env != nil {
			env = *s.env
		}
		if env.ID == "" {
			env.ID = newID()
		}
		if env.Correlation == "" {
			env.Correlation = env.ID
		}
		s.env = &env
	})
	return s.env
}

// EnvelopeOf returns the envelope of the message being handled, or of the command being executed.
func EnvelopeOf(ctx context.Context) (Envelope, bool) {
	s := scopeOf(ctx)
	if s == nil {
		return Envelope{}, false
	}
	return *s.origin(), true
}

// WithEnvelope returns a context whose messages are sent as if by the handler of env: they carry its correlation
// and conversation, and its ID as their cause. It is for work that goes on outside the handler.
func WithEnvelope(ctx context.Context, env Envelope) context.Context {
	s := &scope{Context: ctx, env: &env}
	if outer := scopeOf(ctx); outer != nil {
		s.inTx = outer.inTx
	}
	if env.TraceParent != "" {
		s.Context = traceContext(ctx, env)
	}
	return s
}

var propagator = propagation.TraceContext{}

func traceContext(ctx context.Context, env Envelope) context.Context {
	return propagator.Extract(ctx, propagation.MapCarrier{
		HeaderTraceParent: env.TraceParent, HeaderTraceState: env.TraceState,
	})
}

func injectTrace(ctx context.Context, env *Envelope) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return
	}
	c := propagation.MapCarrier{}
	propagator.Inject(ctx, c)
	env.TraceParent, env.TraceState = c[HeaderTraceParent], c[HeaderTraceState]
}

// newID returns a UUIDv7, which sorts by time.
func newID() string {
	id, err := uuid.NewV7()
	if err != nil {
		id = uuid.New()
	}
	return id.String()
}
