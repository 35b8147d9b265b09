package cqrsotel

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/surge-go/surge/cqrs"
)

// Batch makes the span of a transaction, which links to what sent its messages.
func (t *Telemetry) Batch(ctx context.Context, group string, batch []*cqrs.Delivery) (context.Context, func(error)) {
	start := time.Now()
	g, n := keyGroup.String(group), int64(len(batch))
	of := metric.WithAttributeSet(attribute.NewSet(g))
	ctx, span := t.tracer.Start(ctx, "process batch", trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithLinks(links(batch)...),
		trace.WithAttributes(t.system, g, keyOperation.String("process"), keyOperationIs.String("process batch"),
			keyCount.Int64(n)))
	t.inFlight.Add(ctx, n, of)
	t.batchSize.Record(ctx, n, of)
	return ctx, func(err error) {
		err = readable(err)
		t.inFlight.Add(ctx, -n, of)
		attrs := []attribute.KeyValue{g}
		if err != nil {
			attrs = append(attrs, keyError.String(errorType(err)))
		}
		t.batchTime.Record(ctx, time.Since(start).Seconds(), metric.WithAttributes(attrs...))
		end(span, err)
	}
}

func links(batch []*cqrs.Delivery) []trace.Link {
	all := make([]trace.Link, 0, len(batch))
	for _, d := range batch {
		if from := remote(d.Envelope); from.IsValid() {
			all = append(all, trace.Link{
				SpanContext: from, Attributes: []attribute.KeyValue{text(keyMessage, d.Envelope.ID)},
			})
		}
	}
	return all
}

// Handle makes the span of a handler's call: a child of what sent the message, or, for a batch handler with many,
// of the transaction.
func (t *Telemetry) Handle(ctx context.Context, group string, ds []*cqrs.Delivery) (context.Context, func(error)) {
	if len(ds) == 0 {
		return ctx, func(error) {}
	}
	start := time.Now()
	first := ds[0]
	options := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(t.system, keyGroup.String(group), keyOperation.String("process"),
			keyOperationIs.String("process"), text(keyDestination, first.Topic),
			text(keyType, first.Envelope.Type)),
	}
	if len(ds) == 1 {
		if from := remote(first.Envelope); from.IsValid() {
			ctx = trace.ContextWithRemoteSpanContext(ctx, from)
		} else {
			options = append(options, trace.WithNewRoot())
		}
		options = append(options, trace.WithAttributes(about(first)...))
	} else {
		options = append(options, trace.WithLinks(links(ds)...), trace.WithAttributes(keyCount.Int(len(ds))))
	}
	ctx, span := t.tracer.Start(ctx, "process "+bounded(first.Topic), options...)
	return ctx, func(err error) {
		err = readable(err)
		attrs := append(outcome(err), t.system, keyGroup.String(group),
			keyDestination.String(bounded(first.Topic)), keyType.String(typeOf(first)))
		t.processing.Record(ctx, time.Since(start).Seconds(), metric.WithAttributes(attrs...))
		end(span, err)
	}
}

// about is what a span says of one message.
func about(d *cqrs.Delivery) []attribute.KeyValue {
	attrs := []attribute.KeyValue{text(keyMessage, d.Envelope.ID), keySize.Int(len(d.Payload))}
	if d.Envelope.Correlation != "" {
		attrs = append(attrs, text(keyConversation, d.Envelope.Correlation))
	}
	if d.Envelope.Attempt > 0 {
		attrs = append(attrs, keyAttempt.Int(d.Envelope.Attempt))
	}
	return attrs
}

// typeOf is a message's type if the catalog knows it: then it was decoded.
func typeOf(d *cqrs.Delivery) string {
	if d.Message == nil {
		return other
	}
	return d.Envelope.Type
}

// Execute makes the span of a command that is executed in process, with its commit.
func (t *Telemetry) Execute(ctx context.Context, group string, cmd any) (context.Context, func(error)) {
	start := time.Now()
	name := fmt.Sprintf("%T", cmd)
	ctx, span := t.tracer.Start(ctx, "execute "+name, trace.WithAttributes(keyGroup.String(group), keyType.String(name)))
	return ctx, func(err error) {
		err = readable(err)
		attrs := append(outcome(err), keyGroup.String(group), keyType.String(name))
		t.executing.Record(ctx, time.Since(start).Seconds(), metric.WithAttributes(attrs...))
		end(span, err)
	}
}
