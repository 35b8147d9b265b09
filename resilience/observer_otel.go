package resilience

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

const scope = "github.com/surge-go/surge/resilience"

// OTel returns an [Observer] for OpenTelemetry. A nil provider leaves out spans or metrics. It returns an
// error if an instrument cannot be made.
//
// Every try is a span named after the pipeline, with surge.attempt. The metrics, with surge.pipeline:
//   - surge.resilience.call.duration, histogram in seconds, with surge.outcome
//   - surge.resilience.attempts, counter, with surge.outcome
//   - surge.resilience.rejections, counter, with surge.policy
//   - surge.resilience.transitions, counter, with surge.state (the new one)
func OTel(tracers trace.TracerProvider, meters metric.MeterProvider) (Observer, error) {
	o := &otelObserver{}
	if tracers != nil {
		o.tracer = tracers.Tracer(scope)
	}
	if meters == nil {
		return o, nil
	}
	return o, o.instruments(meters.Meter(scope))
}

type otelObserver struct {
	tracer trace.Tracer // nil: no spans

	calls       metric.Float64Histogram // nil, as the others: no metrics
	attempts    metric.Int64Counter
	rejections  metric.Int64Counter
	transitions metric.Int64Counter
}

func (o *otelObserver) instruments(m metric.Meter) error {
	var errs [4]error
	o.calls, errs[0] = m.Float64Histogram("surge.resilience.call.duration",
		metric.WithUnit("s"), metric.WithDescription("Time that calls took in all."),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30))
	o.attempts, errs[1] = m.Int64Counter("surge.resilience.attempts",
		metric.WithUnit("{attempt}"), metric.WithDescription("Tries that ran."))
	o.rejections, errs[2] = m.Int64Counter("surge.resilience.rejections",
		metric.WithUnit("{call}"), metric.WithDescription("Calls that a policy refused."))
	o.transitions, errs[3] = m.Int64Counter("surge.resilience.transitions",
		metric.WithUnit("{transition}"), metric.WithDescription("Changes of breakers' states."))
	return errors.Join(errs[:]...)
}

// Attempt implements Observer.
func (o *otelObserver) Attempt(ctx context.Context, pipeline string, n int) (context.Context, func(error)) {
	var span trace.Span
	if o.tracer != nil {
		ctx, span = o.tracer.Start(ctx, pipeline, trace.WithAttributes(attribute.Int("surge.attempt", n)))
	}
	return ctx, func(err error) {
		if o.attempts != nil {
			o.attempts.Add(ctx, 1, metric.WithAttributes(pipelineKey.String(pipeline), outcomeAttr(err)))
		}
		if span == nil {
			return
		}
		if err != nil {
			span.RecordError(err)
			span.SetStatus(codes.Error, OutcomeOf(err).String())
		}
		span.End()
	}
}

// Call implements Observer.
func (o *otelObserver) Call(ctx context.Context, pipeline string, d time.Duration, err error) {
	if o.calls == nil {
		return
	}
	name := pipelineKey.String(pipeline)
	o.calls.Record(ctx, d.Seconds(), metric.WithAttributes(name, outcomeAttr(err)))
	if refusal, ok := errors.AsType[*RejectedError](err); ok {
		o.rejections.Add(ctx, 1, metric.WithAttributes(name, attribute.String("surge.policy", refusal.Policy)))
	}
}

// Transition implements Observer.
func (o *otelObserver) Transition(pipeline string, _, to State) {
	if o.transitions == nil {
		return
	}
	o.transitions.Add(context.Background(), 1,
		metric.WithAttributes(pipelineKey.String(pipeline), attribute.String("surge.state", to.String())))
}

const pipelineKey = attribute.Key("surge.pipeline")

func outcomeAttr(err error) attribute.KeyValue {
	return attribute.String("surge.outcome", OutcomeOf(err).String())
}
