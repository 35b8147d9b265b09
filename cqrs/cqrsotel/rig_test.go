package cqrsotel_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/cqrsotel"
)

// patience bounds what a test waits for, on a busy machine too.
const patience = time.Minute

type ordered struct {
	ID string `json:"id"`
}

type packed struct {
	ID string `json:"id"`
}

// confirm is sent for later, through the outbox's table of scheduled messages.
type confirm struct {
	cqrs.Returns[string]
	ID string `json:"id"`
}

type place struct {
	cqrs.Returns[string]
	ID string `json:"id"`
}

var catalog = cqrs.NewCatalog(
	cqrs.Command[place]{Name: "orders.place", Key: func(c place) string { return c.ID }},
	cqrs.Command[confirm]{Name: "orders.confirm", Key: func(c confirm) string { return c.ID }},
	cqrs.Event[ordered]{Name: "orders.placed", Key: func(e ordered) string { return e.ID }},
	cqrs.Event[packed]{Name: "packing.packed", Key: func(e packed) string { return e.ID }},
)

// rig is a program's SDK.
type rig struct {
	*testing.T
	spans    *tracetest.SpanRecorder
	provider *sdktrace.TracerProvider
	reader   *sdkmetric.ManualReader
	t        *cqrsotel.Telemetry
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, spans: tracetest.NewSpanRecorder(), reader: sdkmetric.NewManualReader()}
	r.provider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r.spans))
	var err error
	r.t, err = cqrsotel.New(cqrsotel.Config{
		TracerProvider: r.provider, System: "test",
		MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(r.reader)),
	})
	must(t, err)
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// span waits for a span to end, named and of the kind given.
func (r *rig) span(name string, kind trace.SpanKind, is func(sdktrace.ReadOnlySpan) bool) sdktrace.ReadOnlySpan {
	r.Helper()
	var found sdktrace.ReadOnlySpan
	r.eventually(fmt.Sprintf("a %s span %q", kind, name), func() bool {
		for _, s := range r.spans.Ended() {
			if s.Name() == name && s.SpanKind() == kind && (is == nil || is(s)) {
				found = s
				return true
			}
		}
		return false
	})
	return found
}

func (r *rig) eventually(what string, ask func() bool) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ask() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.Fatalf("never: %s; spans are %v", what, names(r.spans.Ended()))
		}
	}
}

func names(spans []sdktrace.ReadOnlySpan) []string {
	var all []string
	for _, s := range spans {
		all = append(all, s.Name())
	}
	return all
}

// child fails the test unless s is a child of parent.
func (r *rig) child(s, parent sdktrace.ReadOnlySpan) {
	r.Helper()
	of := parent.SpanContext()
	if s.Parent().SpanID() != of.SpanID() || s.SpanContext().TraceID() != of.TraceID() {
		r.Errorf("%q is no child of %q", s.Name(), parent.Name())
	}
}

func (r *rig) has(s sdktrace.ReadOnlySpan, want ...attribute.KeyValue) {
	r.Helper()
	for _, kv := range want {
		if !slices.Contains(s.Attributes(), kv) {
			r.Errorf("%q has no %s=%s: %v", s.Name(), kv.Key, kv.Value.String(), s.Attributes())
		}
	}
}

// metrics collects, and returns each series as "name{attributes}" with its value, or count.
func (r *rig) metrics() map[string]int64 {
	r.Helper()
	var rm metricdata.ResourceMetrics
	must(r, r.reader.Collect(r.Context(), &rm))
	all := map[string]int64{}
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch d := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range d.DataPoints {
					all[series(m.Name, p.Attributes)] = p.Value
				}
			case metricdata.Gauge[int64]:
				for _, p := range d.DataPoints {
					all[series(m.Name, p.Attributes)] = p.Value
				}
			case metricdata.Histogram[float64]:
				for _, p := range d.DataPoints {
					all[series(m.Name, p.Attributes)] = int64(p.Count)
				}
			case metricdata.Histogram[int64]:
				for _, p := range d.DataPoints {
					all[series(m.Name, p.Attributes)] = p.Sum
				}
			}
		}
	}
	return all
}

func series(name string, set attribute.Set) string {
	var parts []string
	for _, kv := range set.ToSlice() {
		parts = append(parts, fmt.Sprintf("%s=%s", kv.Key, kv.Value.String()))
	}
	return name + "{" + strings.Join(parts, ",") + "}"
}
