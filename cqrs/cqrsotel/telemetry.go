package cqrsotel

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/surge-go/surge/cqrs"
)

const scope = "github.com/surge-go/surge/cqrs/cqrsotel"

// Attributes of the conventions for messaging, and a few of our own.
const (
	keySystem       = attribute.Key("messaging.system")
	keyDestination  = attribute.Key("messaging.destination.name")
	keyOperation    = attribute.Key("messaging.operation.type")
	keyOperationIs  = attribute.Key("messaging.operation.name")
	keyMessage      = attribute.Key("messaging.message.id")
	keyConversation = attribute.Key("messaging.message.conversation_id")
	keySize         = attribute.Key("messaging.message.body.size")
	keyCount        = attribute.Key("messaging.batch.message_count")
	keyGroup        = attribute.Key("messaging.consumer.group.name")
	keyError        = attribute.Key("error.type")
	keyType         = attribute.Key("cqrs.message.type")
	keyAttempt      = attribute.Key("cqrs.attempt") // runs that failed before this one
	keyOutcome      = attribute.Key("cqrs.outcome")
	keyCode         = attribute.Key("cqrs.rejection.code")
	keyFate         = attribute.Key("cqrs.fate")
)

// other stands for values that would be without bound.
const other = "_OTHER"

// Config configures [Telemetry]; the zero value works.
type Config struct {
	TracerProvider trace.TracerProvider // nil means the global one, otel.GetTracerProvider
	MeterProvider  metric.MeterProvider // nil means the global one, otel.GetMeterProvider
	// System is the attribute messaging.system: "kafka" over Kafka. "" means "surge".
	System string
}

func (c Config) withDefaults() Config {
	if c.TracerProvider == nil {
		c.TracerProvider = otel.GetTracerProvider()
	}
	if c.MeterProvider == nil {
		c.MeterProvider = otel.GetMeterProvider()
	}
	if c.System == "" {
		c.System = "surge"
	}
	return c
}

// Telemetry makes spans and metrics. It is a cqrs.Observer, for any number of processors, and safe for concurrent use.
type Telemetry struct {
	tracer trace.Tracer
	meter  metric.Meter
	system attribute.KeyValue
	instruments
}

type instruments struct {
	inFlight             metric.Int64UpDownCounter
	sentMessages         metric.Int64Counter
	sending, processing  metric.Float64Histogram
	executing, batchTime metric.Float64Histogram
	batchSize            metric.Int64Histogram
	counts               metric.Int64ObservableCounter
	lag                  metric.Int64ObservableGauge
}

var _ cqrs.Observer = (*Telemetry)(nil)

// New makes the instruments. It returns the meter's errors.
func New(cfg Config) (*Telemetry, error) {
	cfg = cfg.withDefaults()
	t := &Telemetry{
		tracer: cfg.TracerProvider.Tracer(scope),
		meter:  cfg.MeterProvider.Meter(scope),
		system: keySystem.String(cfg.System),
	}
	if err := t.open(); err != nil {
		return nil, fmt.Errorf("cqrsotel: %w", err)
	}
	return t, nil
}

// seconds are the bounds that the conventions advise for durations.
var seconds = metric.WithExplicitBucketBoundaries(
	0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

func (t *Telemetry) open() error {
	var faults []error
	duration := func(name, what string) metric.Float64Histogram {
		h, err := t.meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(what), seconds)
		faults = append(faults, err)
		return h
	}
	t.sending = duration("messaging.client.operation.duration", "Duration of a publisher's call.")
	t.processing = duration("messaging.process.duration", "Duration of a call of a handler.")
	t.executing = duration("cqrs.execute.duration", "Duration of a command executed in process, with its commit.")
	t.batchTime = duration("cqrs.batch.duration", "Duration of a transaction of messages, with its commit.")
	var errs [5]error
	t.sentMessages, errs[0] = t.meter.Int64Counter("messaging.client.sent.messages",
		metric.WithUnit("{message}"), metric.WithDescription("Messages handed to the publisher."))
	t.inFlight, errs[1] = t.meter.Int64UpDownCounter("cqrs.in_flight",
		metric.WithUnit("{message}"), metric.WithDescription("Messages in transactions right now."))
	t.batchSize, errs[2] = t.meter.Int64Histogram("cqrs.batch.messages",
		metric.WithUnit("{message}"), metric.WithDescription("Messages that share a transaction."),
		metric.WithExplicitBucketBoundaries(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024))
	t.counts, errs[3] = t.meter.Int64ObservableCounter("cqrs.messages",
		metric.WithUnit("{message}"), metric.WithDescription("Messages by what became of them."))
	t.lag, errs[4] = t.meter.Int64ObservableGauge("cqrs.lag",
		metric.WithUnit("{message}"), metric.WithDescription("Messages that the group has not finished."))
	return errors.Join(append(faults, errs[:]...)...)
}

// Watch has the metrics cqrs.messages and cqrs.lag show p until it is told to stop. It returns the meter's error.
func (t *Telemetry) Watch(p *cqrs.Processor) (stop func() error, err error) {
	group := keyGroup.String(p.Group())
	reg, err := t.meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		s := p.Stats()
		for fate, n := range map[string]int64{
			"handled": s.Handled, "rejected": s.Rejected, "failed": s.Failed, "postponed": s.Postponed,
			"dead": s.Dead, "skipped": s.Skipped, "duplicate": s.Duplicates,
		} {
			o.ObserveInt64(t.counts, n, metric.WithAttributes(group, keyFate.String(fate)))
		}
		lag, err := p.Lag(ctx)
		for topic, n := range lag {
			o.ObserveInt64(t.lag, n, metric.WithAttributes(group, keyDestination.String(bounded(topic))))
		}
		return err
	}, t.counts, t.lag)
	if err != nil {
		return nil, fmt.Errorf("cqrsotel: watch %s: %w", p.Group(), err)
	}
	return reg.Unregister, nil
}

// bounded cuts what makes a topic of replies a process's own.
func bounded(topic string) string {
	const mark = ".replies"
	if i := strings.Index(topic, mark+"."); i >= 0 {
		topic = topic[:i+len(mark)]
	}
	return valid(topic)
}

// valid replaces what is no UTF-8 in what foreign senders and errors say: an exporter could not send it, nor what is
// in a batch with it.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func text(key attribute.Key, s string) attribute.KeyValue { return key.String(valid(s)) }

var propagator = propagation.TraceContext{}

// remote is the span that sent a message, not valid if there was none.
func remote(e cqrs.Envelope) trace.SpanContext {
	if e.TraceParent == "" {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(propagator.Extract(context.Background(), propagation.MapCarrier{
		cqrs.HeaderTraceParent: e.TraceParent, cqrs.HeaderTraceState: e.TraceState,
	}))
}
