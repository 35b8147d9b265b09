package cqrsotel

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/surge-go/surge/cqrs"
)

// readable returns err, or a cqrs.ErrPanic in place of one whose methods panic, as those of a typed nil do.
func readable(err error) (same error) {
	if err == nil {
		return nil
	}
	defer func() {
		if v := recover(); v != nil {
			same = fmt.Errorf("%w: a %T cannot be read: %v", cqrs.ErrPanic, err, v)
		}
	}()
	_, _, _ = err.Error(), outcomeOf(err), errorType(err)
	return err
}

// The values of cqrs.outcome.
const (
	ok          = "ok"
	rejected    = "rejected"     // the business said no
	deferred    = "deferred"     // the reply comes later
	notExecuted = "not_executed" // answered so
	later       = "later"        // the handler asks to be called again
	canceled    = "canceled"
	failed      = "error"
)

func outcomeOf(err error) string {
	switch {
	case err == nil:
		return ok
	case cqrs.AsRejection(err) != nil:
		return rejected
	case errors.Is(err, cqrs.ErrDeferred):
		return deferred
	case errors.Is(err, cqrs.ErrNotExecuted):
		return notExecuted
	case errors.As(err, new(*cqrs.LaterError)):
		return later
	case errors.Is(err, context.Canceled):
		return canceled
	}
	return failed
}

// errorType is a class of errors: few, whatever their texts. Of several the first counts.
func errorType(err error) string {
	for _, class := range []struct {
		name string
		is   error
	}{
		{"panic", cqrs.ErrPanic},
		{"timeout", context.DeadlineExceeded},
		{"undecodable", cqrs.ErrUndecodable},
		{"unknown_type", cqrs.ErrUnknownType},
		{"no_handler", cqrs.ErrNoHandler},
		{"lease_lost", cqrs.ErrLeaseLost},
	} {
		if errors.Is(err, class.is) {
			return class.name
		}
	}
	return other
}

// outcome is what a metric says of an error.
func outcome(err error) []attribute.KeyValue {
	o := outcomeOf(err)
	if o != failed {
		return []attribute.KeyValue{keyOutcome.String(o)}
	}
	return []attribute.KeyValue{keyOutcome.String(o), keyError.String(errorType(err))}
}

// end ends a span. Texts of errors are for people who operate the service; personal data must not be in them.
func end(span trace.Span, err error) {
	if span.IsRecording() {
		span.SetAttributes(outcome(err)...)
		if no := cqrs.AsRejection(err); no != nil {
			span.SetAttributes(text(keyCode, no.Code))
		}
		if outcomeOf(err) == failed {
			span.SetStatus(codes.Error, valid(err.Error()))
		}
	}
	span.End()
}
