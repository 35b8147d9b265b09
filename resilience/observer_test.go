package resilience_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/surge-go/surge/resilience"
)

type recorder struct{ heard []string }

func (r *recorder) Attempt(ctx context.Context, pipeline string, n int) (context.Context, func(error)) {
	return ctx, func(err error) { r.heard = append(r.heard, fmt.Sprint(pipeline, " try ", n, " ", err)) }
}

func (r *recorder) Call(_ context.Context, pipeline string, d time.Duration, err error) {
	r.heard = append(r.heard, fmt.Sprint(pipeline, " call ", d, " ", resilience.OutcomeOf(err)))
}

func (r *recorder) Transition(pipeline string, from, to resilience.State) {
	r.heard = append(r.heard, fmt.Sprint(pipeline, " ", from, "→", to))
}

func TestObserverHearsOfEverything(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		base := resilience.Must(resilience.New("pay", resilience.Timeout(time.Minute),
			resilience.Retry(resilience.RetryConfig{Attempts: 2, Min: 1, Max: 1}),
			resilience.NewBreaker(resilience.BreakerConfig{Consecutive: 2})))
		p := base.Observe(r)
		run(t, p, 1, func(context.Context) error { time.Sleep(time.Second); return errDown })
		run(t, base, 1, succeed) // shares the state, does not report
		run(t, p, 1, succeed)
		want := []string{
			"pay try 1 down", "pay try 2 down", "pay closed→open", "pay call 2s in doubt",
			"pay call 0s not executed",
		}
		got := slices.Clone(r.heard)
		got[3] = strings.Replace(got[3], "2.000000001s", "2s", 1)
		if !slices.Equal(got, want) {
			t.Errorf("heard %q, want %q", got, want)
		}
		r.heard = nil
		p.Copy("other").ForceOpen()
		if want := []string{"other closed→open"}; !slices.Equal(r.heard, want) {
			t.Errorf("heard %q of a copy, want %q", r.heard, want)
		}
	})
}

// A call whose context has ended before it is a call, too.
func TestObserverHearsOfCallsThatDoNotBegin(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	p := resilience.Must(resilience.New("pay")).Observe(r)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = resilience.Run(ctx, p, succeed)
	if len(r.heard) != 1 || !strings.HasSuffix(r.heard[0], "not executed") {
		t.Errorf("heard %q", r.heard)
	}
}

func TestObserverHearsOfPanics(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	p := resilience.Must(resilience.New("pay")).Observe(r)
	func() {
		defer func() { _ = recover() }()
		run(t, p, 1, func(context.Context) error { panic("boom") })
	}()
	if len(r.heard) != 1 || !strings.Contains(r.heard[0], "panicked") {
		t.Errorf("heard %q", r.heard)
	}
}

func TestOTel(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	reader := sdkmetric.NewManualReader()
	o, err := resilience.OTel(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)),
		sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	if err != nil {
		t.Fatal(err)
	}
	p := resilience.Must(resilience.New("pay",
		resilience.Retry(resilience.RetryConfig{Min: 1, Max: 1}),
		resilience.NewBreaker(resilience.BreakerConfig{Consecutive: 2}))).Observe(o)
	run(t, p, 2, func(ctx context.Context) error {
		if !trace.SpanContextFromContext(ctx).IsValid() {
			t.Error("the function does not run in its span")
		}
		return errDown
	})
	if got := len(spans.Ended()); got != 2 {
		t.Errorf("%d spans, want 2: the third try and the second call were refused", got)
	}
	sums := collect(t, reader)
	for name, want := range map[string]int64{
		"surge.resilience.attempts": 2, "surge.resilience.rejections": 2,
		"surge.resilience.transitions": 1, "surge.resilience.call.duration": 2,
	} {
		if sums[name] != want {
			t.Errorf("%s is %d, want %d", name, sums[name], want)
		}
	}
}

// collect returns the sum of every counter, and the count of every histogram.
func collect(t *testing.T, reader sdkmetric.Reader) map[string]int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	sums := make(map[string]int64)
	for _, s := range all.ScopeMetrics {
		for _, m := range s.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					named(t, p.Attributes)
					sums[m.Name] += p.Value
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					named(t, p.Attributes)
					sums[m.Name] += int64(p.Count)
				}
			}
		}
	}
	return sums
}

func named(t *testing.T, attrs attribute.Set) {
	t.Helper()
	if v, ok := attrs.Value("surge.pipeline"); !ok || v.AsString() != "pay" {
		t.Errorf("attributes %v do not name the pipeline", attrs)
	}
}

func TestOTelWithoutProviders(t *testing.T) {
	t.Parallel()
	o, err := resilience.OTel(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := resilience.Must(resilience.New("pay",
		resilience.NewBreaker(resilience.BreakerConfig{Consecutive: 1}))).Observe(o)
	run(t, p, 2, fail)
}

func TestLog(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := resilience.Log(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	r := &recorder{}
	p := resilience.Must(resilience.New("pay", resilience.NewBreaker(resilience.BreakerConfig{Consecutive: 1}))).
		Observe(resilience.Observers(log, r))
	run(t, p, 1, func(context.Context) error { return context.Canceled })
	run(t, p, 1, fail)
	for _, want := range []string{
		"level=DEBUG msg=\"call ended\"", "level=DEBUG msg=\"try failed\"", "level=WARN msg=\"call ended\"",
		"level=INFO msg=\"breaker changed\" pipeline=pay from=closed to=open",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, out.String())
		}
	}
	if len(r.heard) != 5 {
		t.Errorf("the second observer heard %q", r.heard)
	}
}
