package cqrsotel_test

import (
	"errors"
	"fmt"
	"testing"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/surge-go/surge/cqrs"
)

// texts are all strings of a span.
func texts(s sdktrace.ReadOnlySpan) []string {
	all := []string{s.Name(), s.Status().Description}
	add := func(attrs []attribute.KeyValue) {
		for _, kv := range attrs {
			all = append(all, kv.Value.String())
		}
	}
	add(s.Attributes())
	for _, l := range s.Links() {
		add(l.Attributes)
	}
	return all
}

// What foreign senders and errors say need not be UTF-8. An exporter could not send such a span, and lost the others of
// its batch too.
func TestSpansAreUTF8(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const bad = "a\xffb"
	ds := make([]*cqrs.Delivery, 2)
	for i := range ds {
		ds[i] = &cqrs.Delivery{Topic: bad, Envelope: cqrs.Envelope{
			ID: bad, Type: bad, Correlation: bad, TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		}}
	}
	_, ended := r.t.Batch(t.Context(), "orders", ds)
	ended(errors.New(bad))
	for _, n := range []int{1, 2} {
		_, ended = r.t.Handle(t.Context(), "orders", ds[:n])
		ended(cqrs.Reject(bad, nil))
	}
	m := message.NewMessage(bad, nil)
	m.Metadata.Set(cqrs.HeaderType, bad)
	m.Metadata.Set(cqrs.HeaderCorrelation, bad)
	must(t, r.t.Publisher(discard{}).Publish(bad, m))
	if spans := r.spans.Ended(); len(spans) != 4 {
		t.Fatalf("%d spans", len(spans))
	}
	for _, s := range r.spans.Ended() {
		for _, text := range texts(s) {
			if !utf8.ValidString(text) {
				t.Errorf("%q has %q", s.Name(), text)
			}
		}
	}
}

// An error that is of several classes always has the same one.
func TestErrorTypesAreStable(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	err := fmt.Errorf("%w: %w: %w", cqrs.ErrNoHandler, cqrs.ErrUndecodable, cqrs.ErrPanic)
	for range 50 {
		_, ended := r.t.Execute(t.Context(), "orders", place{})
		ended(err)
	}
	if n := len(r.metrics()); n != 1 {
		t.Errorf("%d series: %v", n, r.metrics())
	}
}

// A call whose error cannot be read has failed like any other, and its span ends.
func TestErrorsThatPanicAreErrors(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var no *unreadable
	d := &cqrs.Delivery{Topic: "orders.events", Message: ordered{}, Envelope: cqrs.Envelope{Type: "orders.placed"}}
	ends := make([]func(error), 3)
	_, ends[0] = r.t.Batch(t.Context(), "orders", []*cqrs.Delivery{d})
	_, ends[1] = r.t.Handle(t.Context(), "orders", []*cqrs.Delivery{d})
	_, ends[2] = r.t.Execute(t.Context(), "orders", place{})
	for _, ended := range ends {
		ended(no)
	}
	if err := r.t.Publisher(refusing{no}).Publish("orders.events", message.NewMessage("1", nil)); err == nil {
		t.Error("the publisher's error is lost")
	}
	for _, s := range r.spans.Ended() {
		r.has(s, attribute.String("error.type", "panic"))
	}
	if n := len(r.spans.Ended()); n != 4 {
		t.Errorf("%d of 4 spans have ended", n)
	}
}

// unreadable is an error that panics when it is looked at, as a nil pointer may.
type unreadable struct{ inner error }

func (e *unreadable) Error() string { return e.inner.Error() }
func (e *unreadable) Unwrap() error { return e.inner }

// refusing is a publisher that returns an error.
type refusing struct{ err error }

func (r refusing) Publish(string, ...*message.Message) error { return r.err }
func (refusing) Close() error                                { return nil }
