package cqrsotel

import (
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/surge-go/surge/cqrs"
)

// Publisher wraps the publisher that a Sender is given, an outbox for instance: each message gets a span of its own,
// a child of the span in its context, and carries it from then on in its metadata traceparent and tracestate. Closing
// it closes next.
func (t *Telemetry) Publisher(next message.Publisher) message.Publisher { return &publisher{t, next} }

type publisher struct {
	t    *Telemetry
	next message.Publisher
}

func (p *publisher) Close() error { return p.next.Close() }

// Publish publishes the messages, and ends their spans when next has taken or refused them.
func (p *publisher) Publish(topic string, messages ...*message.Message) error {
	if len(messages) == 0 {
		return p.next.Publish(topic)
	}
	start := time.Now()
	spans := make([]trace.Span, len(messages))
	for i, m := range messages {
		spans[i] = p.start(topic, m)
	}
	refusal := p.next.Publish(topic, messages...)
	err := readable(refusal)
	for _, span := range spans {
		end(span, err)
	}
	attrs := []attribute.KeyValue{
		p.t.system, keyOperation.String("send"), keyOperationIs.String("send"), keyDestination.String(bounded(topic)),
	}
	if err != nil {
		attrs = append(attrs, keyError.String(errorType(err)))
	}
	of, ctx := metric.WithAttributes(attrs...), messages[0].Context()
	p.t.sentMessages.Add(ctx, int64(len(messages)), of)
	p.t.sending.Record(ctx, time.Since(start).Seconds(), of)
	return refusal
}

func (p *publisher) start(topic string, m *message.Message) trace.Span {
	ctx, span := p.t.tracer.Start(m.Context(), "send "+bounded(topic), trace.WithSpanKind(trace.SpanKindProducer))
	if span.IsRecording() {
		span.SetAttributes(p.t.system, keyOperation.String("send"), keyOperationIs.String("send"),
			text(keyDestination, topic), text(keyMessage, m.UUID), keySize.Int(len(m.Payload)),
			text(keyType, m.Metadata[cqrs.HeaderType]), text(keyConversation, m.Metadata[cqrs.HeaderCorrelation]))
	}
	if span.SpanContext().IsValid() {
		if m.Metadata == nil {
			m.Metadata = message.Metadata{}
		}
		propagator.Inject(ctx, propagation.MapCarrier(m.Metadata))
	}
	return span
}
