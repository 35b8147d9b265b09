package cqrsotel_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/localbus"
)

// processor runs a processor without a database on a bus of its own, until the test ends.
func (r *rig) processor(cfg cqrs.ProcessorConfig, register func(*cqrs.Processor)) *cqrs.Processor {
	r.Helper()
	bus := localbus.New(localbus.Config{Discard: true})
	s, err := cqrs.NewSender(catalog, r.t.Publisher(bus.Publisher()), cqrs.SenderConfig{Source: "test"})
	must(r, err)
	cfg.Subscribe, cfg.Observer = bus.Subscriber, r.t
	cfg.Retry = cqrs.Retry{Min: time.Millisecond}
	p, err := cqrs.NewProcessor("orders", s, cfg)
	must(r, err)
	register(p)
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	stop, err := r.t.Watch(p)
	must(r, err)
	r.Cleanup(func() {
		cancel()
		must(r, <-ended)
		must(r, bus.Close())
		must(r, stop())
	})
	<-p.Running()
	return p
}

func outcomeIs(outcome string) func(sdktrace.ReadOnlySpan) bool {
	return func(s sdktrace.ReadOnlySpan) bool {
		for _, kv := range s.Attributes() {
			if kv == attribute.String("cqrs.outcome", outcome) {
				return true
			}
		}
		return false
	}
}

// A failure is an error; a refusal is an answer.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var runs atomic.Int64
	errs := []error{errors.New("no luck"), cqrs.Later(time.Millisecond, errors.New("not now")), context.Canceled, nil}
	p := r.processor(cqrs.ProcessorConfig{}, func(p *cqrs.Processor) {
		cqrs.Handle(p, func(context.Context, place) (string, error) { return "", cqrs.Reject("sold_out", nil) })
		cqrs.On(p, func(context.Context, ordered) error {
			if n := int(runs.Add(1)); n <= len(errs) {
				return errs[n-1]
			}
			panic("too many")
		})
	})
	_, err := cqrs.Execute(t.Context(), p, place{ID: "1"})
	if cqrs.AsRejection(err) == nil {
		t.Fatalf("Execute = %v", err)
	}
	refused := r.span("execute cqrsotel_test.place", trace.SpanKindInternal, nil)
	r.has(refused, attribute.String("cqrs.outcome", "rejected"), attribute.String("cqrs.rejection.code", "sold_out"))
	if refused.Status().Code != codes.Unset {
		t.Errorf("a refusal is shown as %v", refused.Status())
	}
	must(t, p.Sender().Publish(t.Context(), ordered{"1"}))
	for outcome, want := range map[string]codes.Code{
		"error": codes.Error, "later": codes.Unset, "canceled": codes.Unset, "ok": codes.Unset,
	} {
		s := r.span("process orders.events", trace.SpanKindConsumer, outcomeIs(outcome))
		if s.Status().Code != want {
			t.Errorf("%s is shown as %v", outcome, s.Status())
		}
		r.child(s, r.span("send orders.events", trace.SpanKindProducer, nil))
	}
	failed := r.span("process orders.events", trace.SpanKindConsumer, outcomeIs("error"))
	r.has(failed, attribute.String("error.type", "_OTHER"))
}

func TestAPanicEndsItsSpan(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var runs atomic.Int64
	p := r.processor(cqrs.ProcessorConfig{}, func(p *cqrs.Processor) {
		cqrs.On(p, func(context.Context, ordered) error {
			if runs.Add(1) == 1 {
				panic("oh")
			}
			return nil
		})
	})
	must(t, p.Sender().Publish(t.Context(), ordered{"1"}))
	s := r.span("process orders.events", trace.SpanKindConsumer, outcomeIs("error"))
	r.has(s, attribute.String("error.type", "panic"))
}

// A batch handler's call is one span, which belongs to the transaction and links to every message.
func TestBatchHandlersLinkToTheirMessages(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.processor(cqrs.ProcessorConfig{Lanes: 1}, func(p *cqrs.Processor) {
		p.Consume(func(context.Context, []*cqrs.Delivery) error { return nil }, cqrs.FromTypes("orders.placed"))
	})
	many := func(s sdktrace.ReadOnlySpan) bool { return len(s.Links()) > 1 }
	r.eventually("messages share a transaction", func() bool {
		must(t, p.Sender().Publish(t.Context(), ordered{"1"}, ordered{"2"}, ordered{"3"}, ordered{"4"}))
		return slices.ContainsFunc(r.spans.Ended(), func(s sdktrace.ReadOnlySpan) bool {
			return s.Name() == "process orders.events" && many(s)
		})
	})
	s := r.span("process orders.events", trace.SpanKindConsumer, many)
	for _, l := range s.Links() { // a sender's span ends when its messages are acked, after the transaction
		r.span("send orders.events", trace.SpanKindProducer, func(e sdktrace.ReadOnlySpan) bool {
			return e.SpanContext().SpanID() == l.SpanContext.SpanID()
		})
	}
	r.child(s, r.span("process batch", trace.SpanKindConsumer, func(b sdktrace.ReadOnlySpan) bool {
		return b.SpanContext().SpanID() == s.Parent().SpanID()
	}))
	r.has(s, attribute.Int("messaging.batch.message_count", len(s.Links())))
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.processor(cqrs.ProcessorConfig{}, func(p *cqrs.Processor) {
		cqrs.Handle(p, func(_ context.Context, c place) (string, error) {
			if c.ID == "no" {
				return "", cqrs.Reject("sold_out", nil)
			}
			return "", nil
		})
		cqrs.On(p, func(context.Context, ordered) error { return nil })
	})
	for _, id := range []string{"yes", "no", "yes"} {
		_, _ = cqrs.Execute(t.Context(), p, place{ID: id})
	}
	must(t, p.Sender().Publish(t.Context(), ordered{"1"}, ordered{"2"}))
	unknown := message.NewMessage("u", []byte("{}"))
	for i := range 3 {
		unknown.Metadata = cqrs.Envelope{Type: fmt.Sprint("made.up.", i), Kind: cqrs.KindEvent}.Metadata()
		must(t, r.t.Publisher(discard{}).Publish("orders.replies.host-"+fmt.Sprint(i), unknown))
	}
	const in = "messaging.consumer.group.name=orders"
	want := map[string]int64{
		"cqrs.messages{cqrs.fate=handled," + in + "}":                                                   2,
		"cqrs.messages{cqrs.fate=failed," + in + "}":                                                    0,
		"cqrs.batch.messages{" + in + "}":                                                               2,
		"cqrs.in_flight{" + in + "}":                                                                    0,
		"cqrs.lag{" + in + ",messaging.destination.name=orders.events}":                                 0,
		"cqrs.execute.duration{cqrs.message.type=cqrsotel_test.place,cqrs.outcome=ok," + in + "}":       2,
		"cqrs.execute.duration{cqrs.message.type=cqrsotel_test.place,cqrs.outcome=rejected," + in + "}": 1,
		"messaging.process.duration{cqrs.message.type=orders.placed,cqrs.outcome=ok," + in +
			",messaging.destination.name=orders.events,messaging.system=test}": 2,
		"messaging.client.sent.messages{messaging.destination.name=orders.events,messaging.operation.name=send," +
			"messaging.operation.type=send,messaging.system=test}": 2,
		"messaging.client.sent.messages{messaging.destination.name=orders.replies,messaging.operation.name=send," +
			"messaging.operation.type=send,messaging.system=test}": 3,
	}
	var got map[string]int64
	r.eventually("the last transaction is over", func() bool {
		got = r.metrics()
		return got["cqrs.messages{cqrs.fate=handled,"+in+"}"] == 2 && got["cqrs.in_flight{"+in+"}"] == 0
	})
	for name, n := range want {
		if v, ok := got[name]; !ok || v != n {
			t.Errorf("%s is %d (%v), want %d; got %v", name, v, ok, n, got)
		}
	}
}

type discard struct{}

func (discard) Publish(string, ...*message.Message) error { return nil }
func (discard) Close() error                              { return nil }

// Whatever types and topics senders make up, the number of series stays.
func TestCardinalityIsBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	count := func(n int) int {
		for i := range n {
			d := &cqrs.Delivery{Topic: "t", Envelope: cqrs.Envelope{ID: fmt.Sprint(i), Type: fmt.Sprint("type", i)}}
			_, end := r.t.Handle(t.Context(), "g", []*cqrs.Delivery{d})
			end(fmt.Errorf("error %d", i))
			must(t, r.t.Publisher(discard{}).Publish(fmt.Sprintf("a.replies.%d", i), message.NewMessage(fmt.Sprint(i), nil)))
		}
		return len(r.metrics())
	}
	if a, b := count(1), count(100); a != b {
		t.Errorf("%d series became %d", a, b)
	}
}

func TestPublisherReportsFailures(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bus := localbus.New(localbus.Config{}) // nobody reads
	pub := r.t.Publisher(bus.Publisher())
	if err := pub.Publish("t", message.NewMessage("1", nil)); !errors.Is(err, localbus.ErrNoReader) {
		t.Fatalf("Publish = %v", err)
	}
	if s := r.span("send t", trace.SpanKindProducer, nil); s.Status().Code != codes.Error {
		t.Errorf("a message that was not sent is shown as %v", s.Status())
	}
	must(t, pub.Publish("t"))
	must(t, errors.Join(pub.Close(), bus.Close()))
}

// Without telemetry, Execute allocates what it allocated before there was any.
func TestNoTelemetryCostsNothing(t *testing.T) {
	s, err := cqrs.NewSender(catalog, discard{}, cqrs.SenderConfig{})
	must(t, err)
	p, err := cqrs.NewProcessor("g", s, cqrs.ProcessorConfig{})
	must(t, err)
	cqrs.Handle(p, func(context.Context, place) (string, error) { return "", nil })
	var cmd cqrs.Request[string] = place{ID: "1"}
	n := testing.AllocsPerRun(1000, func() {
		if _, err := cqrs.Execute(t.Context(), p, cmd); err != nil {
			t.Error(err)
		}
	})
	if n > 2 {
		t.Errorf("Execute allocates %v times, want at most 2", n)
	}
}
