package outbox

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// gauges are the instruments that are asked for their values.
type gauges struct {
	depth, scheduled, retrying, dead, orphaned, leases, failing metric.Int64ObservableGauge
	oldest, overdue, horizon                                    metric.Float64ObservableGauge
}

func (g *gauges) instruments(meter metric.Meter) error {
	var errs []error
	for _, c := range []struct {
		into             *metric.Int64ObservableGauge
		name, unit, text string
	}{
		{&g.depth, "surge.outbox.depth", "{message}", "Messages on their way."},
		{&g.scheduled, "surge.outbox.scheduled", "{message}", "Messages that wait for their time."},
		{&g.retrying, "surge.outbox.retrying", "{message}", "Messages refused by the publisher, and those behind them."},
		{&g.dead, "surge.outbox.dead", "{message}", "Messages given up, neither replayed nor discarded."},
		{&g.orphaned, "surge.outbox.shards.orphaned", "{shard}", "Shards without an owner."},
		{&g.leases, "surge.outbox.leases", "{lease}", "Shards that relays of this process have."},
		{&g.failing, "surge.outbox.topics.failing", "{topic}", "Topics whose publisher fails them."},
	} {
		var err error
		*c.into, err = meter.Int64ObservableGauge(c.name, metric.WithUnit(c.unit), metric.WithDescription(c.text))
		errs = append(errs, err)
	}
	for _, c := range []struct {
		into       *metric.Float64ObservableGauge
		name, text string
	}{
		{&g.oldest, "surge.outbox.oldest.age", "Age of the oldest message on its way."},
		{&g.overdue, "surge.outbox.overdue", "For how long a scheduled message should have moved."},
		{&g.horizon, "surge.outbox.horizon.age", "Age of the transaction that holds the horizon back."},
	} {
		var err error
		*c.into, err = meter.Float64ObservableGauge(c.name, metric.WithUnit("s"), metric.WithDescription(c.text))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (g *gauges) all() []metric.Observable {
	return []metric.Observable{
		g.depth, g.scheduled, g.retrying, g.dead, g.orphaned, g.leases, g.failing, g.oldest, g.overdue, g.horizon,
	}
}

// observe answers a collection.
func (m *Metrics) observe(ctx context.Context, o metric.Observer) error {
	leases, failing := m.outbox.relaysNow()
	o.ObserveInt64(m.gauges.leases, leases)
	o.ObserveInt64(m.gauges.failing, failing)
	s, err := m.look(ctx)
	if err != nil {
		return err
	}
	o.ObserveInt64(m.gauges.depth, s.Depth)
	o.ObserveInt64(m.gauges.scheduled, s.Scheduled)
	o.ObserveInt64(m.gauges.retrying, s.Retrying)
	for topic, n := range s.DeadBy {
		o.ObserveInt64(m.gauges.dead, n, metric.WithAttributes(topicKey.String(topic)))
	}
	orphaned := int64(0)
	for _, shard := range s.Shards {
		if shard.Owner == "" || shard.Expires < 0 {
			orphaned++
		}
	}
	o.ObserveInt64(m.gauges.orphaned, orphaned)
	o.ObserveFloat64(m.gauges.oldest, s.Oldest.Seconds())
	o.ObserveFloat64(m.gauges.overdue, s.Overdue.Seconds())
	if s.HolderErr == nil {
		age := 0.0
		if s.Holder != nil {
			age = s.Holder.Age.Seconds()
		}
		o.ObserveFloat64(m.gauges.horizon, age)
	}
	return nil
}

// look returns what the database held at most Refresh ago, and asks it at most once in that time, whatever comes.
func (m *Metrics) look(ctx context.Context) (Stats, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.at.IsZero() && time.Since(m.at) < m.cfg.Refresh {
		return m.stats, m.err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.cfg.Timeout)
	defer cancel()
	m.stats, m.err = m.outbox.Stats(ctx)
	m.at = time.Now()
	return m.stats, m.err
}

// relaysNow returns what the relays of this process have.
func (o *Outbox) relaysNow() (leases, failing int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for r := range o.wakes {
		p := r.Progress()
		leases += int64(p.Shards)
		for _, t := range p.Topics {
			if t.Failures > 0 {
				failing++
			}
		}
	}
	return leases, failing
}
