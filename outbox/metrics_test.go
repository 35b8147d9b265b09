package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// meter registers the metrics of an outbox and returns what collects them: the points by name, unit and topic.
func meter(t *testing.T, box *outbox.Outbox, cfg outbox.MetricsConfig) func() map[string]float64 {
	t.Helper()
	reader := sdk.NewManualReader()
	provider := sdk.NewMeterProvider(sdk.WithReader(reader))
	m, err := box.Measure(provider, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(m.Close(), m.Close(), provider.Shutdown(context.Background())); err != nil {
			t.Error(err)
		}
	})
	return func() map[string]float64 {
		t.Helper()
		var rm metricdata.ResourceMetrics
		if err := reader.Collect(context.Background(), &rm); err != nil {
			t.Fatal(err)
		}
		points := map[string]float64{}
		for _, s := range rm.ScopeMetrics {
			for _, m := range s.Metrics {
				if m.Description == "" || !strings.HasSuffix(m.Description, ".") {
					t.Errorf("%s is not described", m.Name)
				}
				addPoints(points, m)
			}
		}
		return points
	}
}

func addPoints(points map[string]float64, m metricdata.Metrics) {
	name := func(topic, outcome string) string {
		return strings.TrimSpace(strings.TrimPrefix(m.Name, "surge.outbox.") + " " + m.Unit + " " + topic + " " + outcome)
	}
	switch data := m.Data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			topic, _ := p.Attributes.Value("surge.topic")
			points[name(topic.AsString(), "")] = float64(p.Value)
		}
	case metricdata.Gauge[int64]:
		for _, p := range data.DataPoints {
			topic, _ := p.Attributes.Value("surge.topic")
			points[name(topic.AsString(), "")] = float64(p.Value)
		}
	case metricdata.Gauge[float64]:
		for _, p := range data.DataPoints {
			points[name("", "")] = p.Value
		}
	case metricdata.Histogram[int64]:
		for _, p := range data.DataPoints {
			topic, _ := p.Attributes.Value("surge.topic")
			points[name(topic.AsString(), "")] = float64(p.Sum)
		}
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			topic, _ := p.Attributes.Value("surge.topic")
			outcome, _ := p.Attributes.Value("surge.outcome")
			points[name(topic.AsString(), outcome.AsString())] = float64(p.Count)
		}
	}
}

// often asks the database for each collection.
var often = outbox.MetricsConfig{Refresh: 1}

func TestMetrics(t *testing.T) {
	t.Parallel()
	to := &scripted{script: func(topic string, _ []*message.Message) error {
		switch topic {
		case "mails":
			return refusedError{}
		case "down":
			return errors.New("no route to host")
		}
		return nil
	}}
	f := run(t, to, outbox.RelayConfig{Attempts: 2})
	collect := meter(t, f.box, often)
	f.publish(t, "orders", "k", "1", "2", "3")
	f.drain(t)
	f.publish(t, "mails", "k", "4")
	within(t, "it is dead", func() bool { return collect()["dead {message} mails"] == 1 })
	f.publish(t, "down", "k", "5")
	within(t, "the topic fails", func() bool { return collect()["topics.failing {topic}"] == 1 })
	got := collect()
	for name, want := range map[string]float64{
		"messages.published {message} orders": 3,
		"messages.dead {message} mails":       1,
		"publish.batch {message} orders":      3,
		"publish.duration s orders ok":        1,
		"leases {lease}":                      outbox.Shards,
		"shards.orphaned {shard}":             0,
		"depth {message}":                     1,
		"retrying {message}":                  0,
		"scheduled {message}":                 0,
		"overdue s":                           0,
		"horizon.age s":                       0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s: %v, %v; expected %v", name, v, ok, want)
		}
	}
	for _, name := range []string{
		"messages.failed {message} mails", "publish.duration s down failed", "delay s", "oldest.age s",
	} {
		if got[name] <= 0 {
			t.Errorf("%s: %v", name, got[name])
		}
	}
	if t.Failed() {
		t.Log(got)
	}
}

// However often metrics are collected, the database is asked once in a while.
func TestMetricsSpareTheDatabase(t *testing.T) {
	t.Parallel()
	box, unit := newOutbox(t, openSQLite(t))
	collect := meter(t, box, outbox.MetricsConfig{Refresh: time.Hour})
	fill(t, box, unit, 1)
	if n := collect()["depth {message}"]; n != 1 {
		t.Fatalf("depth %v", n)
	}
	fill(t, box, unit, 1)
	for range 10 {
		if n := collect()["depth {message}"]; n != 1 {
			t.Fatalf("depth %v: the database was asked again", n)
		}
	}
}

// A database that does not answer leaves out what it knows, and nothing else.
func TestMetricsWithoutADatabase(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	box, _ := newOutbox(t, db)
	reader := sdk.NewManualReader()
	m, err := box.Measure(sdk.NewMeterProvider(sdk.WithReader(reader)), often)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := db.DB()
	if err != nil {
		t.Fatal(err)
	}
	_ = pool.Close()
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err == nil {
		t.Error("nobody was told that the database does not answer")
	}
	points := map[string]float64{}
	for _, s := range rm.ScopeMetrics {
		for _, m := range s.Metrics {
			addPoints(points, m)
		}
	}
	if fmt.Sprint(points) != "map[leases {lease}:0 topics.failing {topic}:0]" {
		t.Error(points)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestMeasureOnceAtATime(t *testing.T) {
	t.Parallel()
	box, _ := newOutbox(t, openSQLite(t))
	none, err := box.Measure(nil, outbox.MetricsConfig{})
	if err != nil {
		t.Fatal(err)
	}
	provider := sdk.NewMeterProvider(sdk.WithReader(sdk.NewManualReader()))
	first, err := box.Measure(provider, outbox.MetricsConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := box.Measure(provider, outbox.MetricsConfig{}); !errors.Is(err, outbox.ErrMeasured) {
		t.Errorf("a second time: %v", err)
	}
	if err := errors.Join(none.Close(), first.Close()); err != nil {
		t.Fatal(err)
	}
	again, err := box.Measure(provider, outbox.MetricsConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(first.Close(), again.Close()); err != nil { // the first has no part in the second
		t.Fatal(err)
	}
	_, err = box.Measure(provider, outbox.MetricsConfig{Refresh: -1, Timeout: -1})
	if err == nil || !strings.Contains(err.Error(), "MetricsConfig.Refresh") ||
		!strings.Contains(err.Error(), "MetricsConfig.Timeout") {
		t.Errorf("bad configuration: %v", err)
	}
}

func ExampleOutbox_Measure() {
	ctx := context.Background()
	db, _, err := openExample(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer closeExample(db)
	box, err := outbox.New(db, outbox.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	reader := sdk.NewManualReader() // a program has an exporter instead
	provider := sdk.NewMeterProvider(sdk.WithReader(reader))
	metrics, err := box.Measure(provider, outbox.MetricsConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	var rm metricdata.ResourceMetrics
	fmt.Println(reader.Collect(ctx, &rm), len(rm.ScopeMetrics[0].Metrics) > 0)
	fmt.Println(metrics.Close())
	// Output:
	// <nil> true
	// <nil>
}
