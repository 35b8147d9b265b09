package cqrsotel_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/glebarez/sqlite"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/host"
	"github.com/surge-go/surge/cqrs/kafkabus"
	"github.com/surge-go/surge/cqrs/localbus"
	"github.com/surge-go/surge/outbox/uow"
)

func openDB(t *testing.T, name string) *gorm.DB {
	t.Helper()
	path := filepath.Join(t.TempDir(), name+".db")
	dsn := path + "?_pragma=synchronous(OFF)&_pragma=busy_timeout(5000)"
	db, err := gorm.Open(sqlite.Open(dsn), &gorm.Config{Logger: logger.Discard})
	must(t, err)
	t.Cleanup(func() {
		if pool, err := db.DB(); err == nil {
			_ = pool.Close()
		}
	})
	return db
}

func (r *rig) service(name string, bus host.Transport) *host.Service {
	r.Helper()
	svc, err := host.Open(r.Context(), name, openDB(r.T, name), catalog, host.Config{Transport: bus, Telemetry: r.t})
	must(r, err)
	return svc
}

// oneTrace has an order placed in one service and packed in another, which answers with an event: every hop goes
// through an outbox and the bus, and all of it is one trace.
func oneTrace(t *testing.T, bus host.Transport) {
	r := newRig(t)
	orders, packing := r.service("orders", bus), r.service("packing", bus)
	cqrs.Handle(orders.Processor, func(ctx context.Context, c place) (string, error) {
		return "ok", orders.Sender.Publish(ctx, ordered{c.ID})
	})
	cqrs.On(packing.Processor, func(ctx context.Context, e ordered) error {
		return packing.Sender.Send(ctx, confirm{ID: e.ID}, cqrs.After(time.Millisecond))
	})
	cqrs.Handle(orders.Processor, func(ctx context.Context, c confirm) (string, error) {
		return "", orders.Sender.Publish(ctx, packed{c.ID})
	})
	cqrs.On(orders.Processor, func(context.Context, packed) error { return nil })
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- host.Run(ctx, orders, packing) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-ended)
	})

	rctx, request := r.provider.Tracer("test").Start(t.Context(), "request")
	_, err := cqrs.Execute(rctx, orders.Processor, place{ID: "o-1"})
	must(t, err)
	request.End()

	last := r.span("process packing.events", trace.SpanKindConsumer, nil)
	r.chain(last, "process packing.events", "send packing.events", "process orders.commands",
		"send orders.commands", "process orders.events", "send orders.events",
		"execute cqrsotel_test.place", "request")
	r.has(last, attribute.String("messaging.system", "test"), attribute.String("messaging.operation.type", "process"),
		attribute.String("messaging.destination.name", "packing.events"),
		attribute.String("messaging.consumer.group.name", "orders"),
		attribute.String("cqrs.message.type", "packing.packed"), attribute.String("cqrs.outcome", "ok"))
	batch := r.span("process batch", trace.SpanKindConsumer, func(s sdktrace.ReadOnlySpan) bool {
		return len(s.Links()) > 0 && s.Links()[0].SpanContext.SpanID() == last.Parent().SpanID()
	})
	r.has(batch, attribute.Int("messaging.batch.message_count", 1))
}

// chain follows the parents of a span by name, up to the root.
func (r *rig) chain(s sdktrace.ReadOnlySpan, want ...string) {
	r.Helper()
	byID := map[trace.SpanID]sdktrace.ReadOnlySpan{}
	for _, e := range r.spans.Ended() {
		byID[e.SpanContext().SpanID()] = e
	}
	root := s.SpanContext().TraceID()
	for i, name := range want {
		if s == nil || s.Name() != name || s.SpanContext().TraceID() != root {
			r.Fatalf("at %d of the chain: got %v, want %q", i, s, name)
		}
		s = byID[s.Parent().SpanID()]
	}
	if s != nil {
		r.Fatalf("the root has a parent: %q", s.Name())
	}
}

func TestOneTraceOverTheLocalBus(t *testing.T) {
	t.Parallel()
	bus := localbus.New(localbus.Config{InTransaction: uow.In, Discard: true})
	t.Cleanup(func() { must(t, bus.Close()) })
	oneTrace(t, bus)
}

func TestOneTraceOverKafka(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1), kfake.SeedTopics(2, "orders.commands", "orders.events", "packing.events"))
	must(t, err)
	t.Cleanup(cluster.Close)
	bus, err := kafkabus.New(cluster.ListenAddrs(), kafkabus.Config{})
	must(t, err)
	t.Cleanup(func() { must(t, bus.Close()) })
	oneTrace(t, bus)
}
