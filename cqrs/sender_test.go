package cqrs_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"github.com/surge-go/surge/cqrs"
)

func TestRule17_HeadersAreCloudEventsAndNameTheKey(t *testing.T) {
	t.Parallel()
	b := newDB()
	s := newService(t, b, catalog(), cqrs.ProcessorConfig{})
	deadline := time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)
	err := s.s.Send(t.Context(), place{Order: "o-1"},
		cqrs.ReplyTo("x.replies", "tok"), cqrs.Deadline(deadline), cqrs.Conversation("visit-7"))
	if err != nil {
		t.Fatal(err)
	}
	m := b.sentTo("shop.commands")[0]
	for name, want := range map[string]string{
		"ce_type": "shop.place", "ce_source": "test", "ce_specversion": "1.0", "content-type": "application/json",
		"ce_partitionkey": "o-1", "ce_version": "1", "ce_kind": "command", "ce_correlationid": m.UUID,
		"ce_causationid": "", "ce_conversationid": "visit-7", "ce_replyto": "x.replies", "ce_token": "tok",
		"ce_deadline": "2030-01-02T03:04:05.000000006Z", "ce_attempt": "", "surge-deliver-at": "",
	} {
		if got := m.Metadata[name]; got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if id, err := uuid.Parse(m.UUID); err != nil || id.Version() != 7 {
		t.Errorf("ID = %q, want a UUIDv7", m.UUID)
	}
	env := cqrs.EnvelopeFrom(m)
	if !env.Deadline.Equal(deadline) || time.Since(env.OccurredAt) > time.Minute || env.Key != "o-1" || env.Version != 1 {
		t.Errorf("envelope = %+v", env)
	}
}

func TestMessagesCarryTheirCause(t *testing.T) {
	t.Parallel()
	b := newDB()
	s := newService(t, b, catalog(), b.config())
	cqrs.Handle(s.p, func(ctx context.Context, c place) (receipt, error) {
		return receipt{}, s.s.Publish(ctx, placed{"1"}, placed{"2"})
	})
	ctx := cqrs.WithEnvelope(t.Context(), cqrs.Envelope{ID: "id", Correlation: "corr", Conversation: "conv"})
	if _, err := cqrs.Execute(ctx, s.p, place{}); err != nil {
		t.Fatal(err)
	}
	if _, err := cqrs.Execute(t.Context(), s.p, place{}); err != nil {
		t.Fatal(err)
	}
	out := b.sentTo("shop.events")
	for _, m := range out[:2] {
		if e := cqrs.EnvelopeFrom(m); e.Correlation != "corr" || e.Causation != "id" || e.Conversation != "conv" {
			t.Errorf("envelope = %+v", e)
		}
	}
	third, fourth := cqrs.EnvelopeFrom(out[2]), cqrs.EnvelopeFrom(out[3])
	if third.Correlation == "" || third.Correlation != fourth.Correlation || third.Causation != fourth.Causation {
		t.Errorf("two events of one execution: %+v and %+v", third, fourth)
	}
}

func TestTraceContextTravels(t *testing.T) {
	t.Parallel()
	b := newDB()
	s := newService(t, b, catalog(), b.config())
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: 1})
	ctx := trace.ContextWithSpanContext(t.Context(), sc)
	if err := s.s.Send(ctx, note{}); err != nil {
		t.Fatal(err)
	}
	env := cqrs.EnvelopeFrom(b.sentTo("shop.commands")[0])
	if want := "00-01000000000000000000000000000000-0200000000000000-01"; env.TraceParent != want {
		t.Errorf("traceparent = %q, want %q", env.TraceParent, want)
	}
	if err := s.s.Publish(cqrs.WithEnvelope(t.Context(), env), placed{}); err != nil {
		t.Fatal(err)
	}
	got := cqrs.EnvelopeFrom(b.sentTo("shop.events")[0])
	if !strings.Contains(got.TraceParent, "-01000000000000000000000000000000-") {
		t.Errorf("the handler's message lost the trace: %q", got.TraceParent)
	}
}

func TestSenderRefusesWhatItMust(t *testing.T) {
	t.Parallel()
	s := newService(t, newDB(), catalog(), cqrs.ProcessorConfig{})
	if err := s.s.Send(t.Context(), struct{}{}); !errors.Is(err, cqrs.ErrUnknownType) {
		t.Errorf("unknown = %v", err)
	}
	if err := s.s.Send(t.Context(), nil); !errors.Is(err, cqrs.ErrUnknownType) {
		t.Errorf("nil = %v", err)
	}
	if err := s.s.Send(t.Context(), placed{}); err == nil {
		t.Error("an event was sent as a command")
	}
	if err := s.s.Publish(t.Context(), note{}); err == nil {
		t.Error("a command was published as an event")
	}
	if err := s.s.Send(t.Context(), &place{SKU: "nothing"}); cqrs.AsRejection(err) == nil {
		t.Errorf("invalid = %v", err)
	}
	if err := s.s.Send(t.Context(), (*place)(nil)); err == nil || !strings.Contains(err.Error(), "nil *cqrs_test.place") {
		t.Errorf("a nil pointer = %v", err)
	}
	c := cqrs.NewCatalog(cqrs.Event[*placed]{Name: "shop.placed"})
	if err := newService(t, newDB(), c, cqrs.ProcessorConfig{}).s.Publish(t.Context(), (*placed)(nil)); err == nil {
		t.Error("a nil pointer was published")
	}
	last := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	if err := s.s.SendAt(t.Context(), last, note{}); err != nil {
		t.Errorf("at the end of time: %v", err)
	}
	err := s.s.SendAt(t.Context(), last.Add(time.Second), note{})
	if err == nil || !strings.Contains(err.Error(), "10000") {
		t.Errorf("after the end of time: %v", err)
	}
}

// calls counts how events reach the publisher.
type callCounter struct {
	topics []string
	sizes  []int
}

func (c *callCounter) Publish(topic string, ms ...*message.Message) error {
	c.topics, c.sizes = append(c.topics, topic), append(c.sizes, len(ms))
	return nil
}
func (c *callCounter) Close() error { return nil }

func TestPublishKeepsOrderAndJoinsNeighboursOfATopic(t *testing.T) {
	t.Parallel()
	var pub callCounter
	c := cqrs.NewCatalog(cqrs.Event[placed]{Name: "a.x"}, cqrs.Event[shipped]{Name: "b.x"})
	s, err := cqrs.NewSender(c, &pub, cqrs.SenderConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(t.Context(), placed{}, placed{}, shipped{}, placed{}); err != nil {
		t.Fatal(err)
	}
	if strings.Join(pub.topics, " ") != "a.events b.events a.events" || pub.sizes[0] != 2 || pub.sizes[2] != 1 {
		t.Errorf("calls to %v with %v", pub.topics, pub.sizes)
	}
}

func FuzzEnvelope(f *testing.F) {
	f.Add("2030-01-02T03:04:05Z", "3", "t")
	f.Fuzz(func(t *testing.T, when, n, name string) {
		m := message.NewMessage("id", nil)
		m.Metadata[cqrs.HeaderTime], m.Metadata[cqrs.HeaderDeadline] = when, when
		m.Metadata[cqrs.HeaderVersion], m.Metadata[cqrs.HeaderAttempt] = n, n
		m.Metadata[cqrs.HeaderType] = name
		e := cqrs.EnvelopeFrom(m)
		if e.Version < 0 || e.Attempt < 0 {
			t.Fatalf("negative numbers: %+v", e)
		}
		again := message.NewMessage("id", nil)
		again.Metadata = e.Metadata()
		got := cqrs.EnvelopeFrom(again)
		if !got.OccurredAt.Equal(e.OccurredAt) || got.Version != e.Version || got.Type != e.Type {
			t.Fatalf("round trip: %+v, then %+v", e, got)
		}
	})
}

type nowhere struct{}

func (nowhere) Publish(string, ...*message.Message) error { return nil }
func (nowhere) Close() error                              { return nil }

// Events of two topics that take turns cost what they cost one by one.
func TestPublishOfTopicsThatTakeTurnsIsLinear(t *testing.T) {
	c := cqrs.NewCatalog(
		cqrs.Event[placed]{Name: "a.placed", Topic: "a", Key: func(e placed) string { return e.Order }},
		cqrs.Event[shipped]{Name: "b.shipped", Topic: "b", Key: func(e shipped) string { return e.Order }},
	)
	s, err := cqrs.NewSender(c, nowhere{}, cqrs.SenderConfig{})
	if err != nil {
		t.Fatal(err)
	}
	cost := func(n int) float64 {
		events := make([]any, n)
		for i := range events {
			if events[i] = any(placed{"x"}); i%2 == 1 {
				events[i] = shipped{"x"}
			}
		}
		var a, b runtime.MemStats
		runtime.ReadMemStats(&a)
		if err := s.Publish(context.Background(), events...); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&b)
		return float64(b.TotalAlloc-a.TotalAlloc) / float64(n)
	}
	cost(100)
	small, big := cost(100), cost(10_000)
	if big > 2*small {
		t.Errorf("an event costs %.0f bytes among 100 and %.0f among 10000", small, big)
	}
}
