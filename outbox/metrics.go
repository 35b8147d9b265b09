package outbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/surge-go/surge/outbox/uow"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

const scope = "github.com/surge-go/surge/outbox"

// ErrMeasured is returned by [Outbox.Measure] while metrics of the same outbox are registered.
var ErrMeasured = errors.New("outbox: the metrics are registered already")

// MetricsConfig configures metrics; the zero value works.
type MetricsConfig struct {
	// Refresh is how long one look at the database serves, however often metrics are collected. 0 means 10 s.
	Refresh time.Duration
	// Timeout is for that look. 0 means 5 s.
	Timeout time.Duration
}

// Validate joins every fault of the configuration.
func (c MetricsConfig) Validate() error {
	var faults []error
	for _, f := range []struct {
		name  string
		value time.Duration
	}{{"Refresh", c.Refresh}, {"Timeout", c.Timeout}} {
		if f.value < 0 {
			faults = append(faults, fmt.Errorf("outbox: MetricsConfig.%s is %v, it may not be negative", f.name, f.value))
		}
	}
	return errors.Join(faults...)
}

// Metrics are an outbox's registered instruments.
type Metrics struct {
	outbox       *Outbox
	cfg          MetricsConfig
	registration metric.Registration
	gauges       gauges

	published, failed, dead metric.Int64Counter
	batch                   metric.Int64Histogram
	duration, delay         metric.Float64Histogram

	mu    sync.Mutex // held during a look at the database
	at    time.Time  // of the last look
	stats Stats
	err   error
}

// Measure registers the OpenTelemetry metrics of the outbox and of the relays that run on it in this process, until
// Close. With a nil provider there are none, and they cost nothing. Errors: [ErrMeasured], a bad configuration, and
// what the provider says.
//
// What this process does, counted as it happens, with surge.topic:
//   - surge.outbox.messages.published and surge.outbox.messages.failed, counters in {message}: what the publisher took
//     and did not take, by try
//   - surge.outbox.messages.dead, counter in {message}: what was given up
//   - surge.outbox.publish.batch, histogram in {message}: the size of each Publish
//   - surge.outbox.publish.duration, histogram in s: the time it took, with surge.outcome (ok or failed)
//
// and without it:
//   - surge.outbox.delay, histogram in s by the database's clock: from a message's insert, just before the commit, to
//     its deletion, just after the publication; of the oldest message of each delete
//   - surge.outbox.leases, gauge in {lease}: shards that relays of this process have
//   - surge.outbox.topics.failing, gauge in {topic}: topics whose publisher fails them
//
// What the database holds ([Stats]), the same from every process, so take the maximum and not the sum:
//   - surge.outbox.depth, surge.outbox.scheduled and surge.outbox.retrying, gauges in {message}
//   - surge.outbox.dead, gauge in {message}, with surge.topic
//   - surge.outbox.oldest.age, gauge in s: of the oldest message on its way
//   - surge.outbox.overdue, gauge in s: for how long a scheduled message should have moved
//   - surge.outbox.shards.orphaned, gauge in {shard}: shards without an owner
//   - surge.outbox.horizon.age, gauge in s: of the transaction that holds the horizon back, if that is known
func (o *Outbox) Measure(meters metric.MeterProvider, cfg MetricsConfig) (*Metrics, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.Refresh, cfg.Timeout = or(cfg.Refresh, 10*time.Second), or(cfg.Timeout, 5*time.Second)
	m := &Metrics{outbox: o, cfg: cfg}
	if meters == nil {
		return m, nil
	}
	meter := meters.Meter(scope)
	err := errors.Join(m.instruments(meter), m.gauges.instruments(meter))
	if err != nil {
		return nil, fmt.Errorf("outbox: metrics: %w", err)
	}
	if !o.metrics.CompareAndSwap(nil, m) {
		return nil, ErrMeasured
	}
	m.registration, err = meter.RegisterCallback(m.observe, m.gauges.all()...)
	if err != nil {
		o.metrics.Store(nil)
		return nil, fmt.Errorf("outbox: metrics: %w", err)
	}
	return m, nil
}

// Close ends the metrics. Then the outbox can be measured anew.
func (m *Metrics) Close() error {
	if m.registration == nil || !m.outbox.metrics.CompareAndSwap(m, nil) {
		return nil
	}
	return m.registration.Unregister()
}

func (m *Metrics) instruments(meter metric.Meter) error {
	var errs [6]error
	m.published, errs[0] = meter.Int64Counter("surge.outbox.messages.published",
		metric.WithUnit("{message}"), metric.WithDescription("Messages that the publisher took."))
	m.failed, errs[1] = meter.Int64Counter("surge.outbox.messages.failed",
		metric.WithUnit("{message}"), metric.WithDescription("Messages that the publisher did not take, by try."))
	m.dead, errs[2] = meter.Int64Counter("surge.outbox.messages.dead",
		metric.WithUnit("{message}"), metric.WithDescription("Messages that were given up."))
	m.batch, errs[3] = meter.Int64Histogram("surge.outbox.publish.batch",
		metric.WithUnit("{message}"), metric.WithDescription("Messages of a Publish."),
		metric.WithExplicitBucketBoundaries(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000))
	m.duration, errs[4] = meter.Float64Histogram("surge.outbox.publish.duration",
		metric.WithUnit("s"), metric.WithDescription("Time that a Publish took."),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30))
	m.delay, errs[5] = meter.Float64Histogram("surge.outbox.delay",
		metric.WithUnit("s"), metric.WithDescription("Time from a message's insert to its deletion."),
		metric.WithExplicitBucketBoundaries(.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200))
	return errors.Join(errs[:]...)
}

// send publishes messages. After an error, failed tells which were not published; nil means any.
func (r *Relay) send(topic string, recs []record) (failed map[int]bool, err error) {
	m := r.outbox.metrics.Load()
	if m == nil {
		return r.transmit(topic, recs)
	}
	began := time.Now()
	failed, err = r.transmit(topic, recs)
	lost, outcome := len(failed), "ok"
	if err != nil {
		outcome = "failed"
	}
	if err != nil && failed == nil {
		lost = len(recs)
	}
	m.sent(topic, len(recs), lost, outcome, time.Since(began))
	return failed, err
}

const (
	topicKey   = attribute.Key("surge.topic")
	outcomeKey = attribute.Key("surge.outcome")
)

func (m *Metrics) sent(topic string, n, lost int, outcome string, took time.Duration) {
	ctx := context.Background()
	with := metric.WithAttributeSet(attribute.NewSet(topicKey.String(topic)))
	m.batch.Record(ctx, int64(n), with)
	m.duration.Record(ctx, took.Seconds(), metric.WithAttributes(topicKey.String(topic), outcomeKey.String(outcome)))
	if n > lost {
		m.published.Add(ctx, int64(n-lost), with)
	}
	if lost > 0 {
		m.failed.Add(ctx, int64(lost), with)
	}
}

// countDead counts a message that is given up by the transaction in ctx.
func (o *Outbox) countDead(ctx context.Context, topic string) error {
	m := o.metrics.Load()
	if m == nil {
		return nil
	}
	return uow.AfterCommit(ctx, func() {
		m.dead.Add(context.Background(), 1, metric.WithAttributes(topicKey.String(topic)))
	})
}

// measureDelay records the age of the oldest of the messages that were published.
func (r *Relay) measureDelay(ctx context.Context, published []ack) {
	m := r.outbox.metrics.Load()
	if m == nil {
		return
	}
	oldest := slices.MinFunc(published, func(a, b ack) int { return cmp.Compare(a.seq, b.seq) })
	var micros int64
	err := r.pool.QueryRowContext(ctx, r.dialect.sql("SELECT {now} - created_at FROM outbox WHERE seq = ?"), oldest.seq).
		Scan(&micros)
	if err == nil { // else it is gone, or the delete that follows has the same trouble and says so
		m.delay.Record(ctx, float64(micros)/1e6)
	}
}
