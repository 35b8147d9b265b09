package cqrstest

import (
	"slices"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// Sent is a message that a [Recorder] got.
type Sent struct {
	Topic    string
	Envelope cqrs.Envelope
	Payload  []byte
	Message  any // decoded; nil for replies and types that are not in the catalog
}

// A Recorder is a message.Publisher that remembers what it gets. It is safe for concurrent use.
type Recorder struct {
	catalog *cqrs.Catalog
	mu      sync.Mutex
	sent    []Sent
}

// NewRecorder returns a recorder that decodes by c.
func NewRecorder(c *cqrs.Catalog) *Recorder { return &Recorder{catalog: c} }

// Publish remembers messages. It never fails.
func (r *Recorder) Publish(topic string, ms ...*message.Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range ms {
		s := Sent{Topic: topic, Envelope: cqrs.EnvelopeFrom(m), Payload: slices.Clone(m.Payload)}
		if s.Envelope.Kind != cqrs.KindReply {
			s.Message, _ = r.catalog.Decode(&cqrs.Delivery{Envelope: s.Envelope, Topic: topic, Payload: s.Payload})
		}
		r.sent = append(r.sent, s)
	}
	return nil
}

// Close does nothing.
func (r *Recorder) Close() error { return nil }

// Sent returns everything so far, in order.
func (r *Recorder) Sent() []Sent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sent)
}

// Forget forgets everything so far.
func (r *Recorder) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = nil
}

// SentOf returns the messages of type M so far, in order.
func SentOf[M any](r *Recorder) []M {
	var all []M
	for _, s := range r.Sent() {
		if m, ok := s.Message.(M); ok {
			all = append(all, m)
		}
	}
	return all
}
