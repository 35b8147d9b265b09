package cqrs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// SenderConfig configures a [Sender]. The zero value works.
type SenderConfig struct {
	Source string       // CloudEvents source; "" means the program's name
	Logger *slog.Logger // nil discards
}

func (c SenderConfig) withDefaults() SenderConfig {
	if c.Source == "" {
		c.Source = filepath.Base(os.Args[0])
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// A Sender encodes messages and hands them to a publisher. Over an outbox they leave with the commit of the
// transaction in ctx; over any other publisher they leave at once, also if the transaction rolls back.
// It is safe for concurrent use.
type Sender struct {
	catalog *Catalog
	pub     message.Publisher
	cfg     SenderConfig
}

// NewSender returns the catalog's faults, if it has any.
func NewSender(c *Catalog, p message.Publisher, cfg SenderConfig) (*Sender, error) {
	if c == nil || p == nil {
		return nil, errors.New("cqrs: NewSender needs a catalog and a publisher")
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Sender{catalog: c, pub: p, cfg: cfg.withDefaults()}, nil
}

// Catalog returns the catalog given to [NewSender].
func (s *Sender) Catalog() *Catalog { return s.catalog }

// A SendOption changes one message that is sent: [At], [After], [ReplyTo], [Deadline], [Conversation].
type SendOption struct{ apply func(*outgoing) }

type outgoing struct {
	env Envelope
	at  time.Time
}

// At has the message delivered no earlier than t. It needs an outbox, which keeps the message until then; without one
// the receiving [Processor] keeps it, durably if it has Parking. Other messages of its key do not wait for it: its
// place among them is that of its time. The year is 9999 at the latest, or Send returns an error.
func At(t time.Time) SendOption { return SendOption{func(o *outgoing) { o.at = t }} }

// After is [At] d from now.
func After(d time.Duration) SendOption { return At(time.Now().Add(d)) }

// ReplyTo asks for a reply on topic, which carries token.
func ReplyTo(topic, token string) SendOption {
	return SendOption{func(o *outgoing) { o.env.ReplyTo, o.env.Token = topic, token }}
}

// Deadline tells the receiver that nobody waits for the effect after t.
func Deadline(t time.Time) SendOption { return SendOption{func(o *outgoing) { o.env.Deadline = t }} }

// Conversation names the conversation, which everything sent in consequence keeps.
func Conversation(name string) SendOption {
	return SendOption{func(o *outgoing) { o.env.Conversation = name }}
}

// Send sends a command to its owner. Errors: [ErrUnknownType], a [Rejection] by its Validate, the codec's and the
// publisher's.
func (s *Sender) Send(ctx context.Context, cmd any, options ...SendOption) error {
	e, m, err := s.message(ctx, cmd, KindCommand, options)
	if err != nil {
		return fmt.Errorf("cqrs: send: %w", err)
	}
	if err := s.pub.Publish(e.Topic, m); err != nil {
		return fmt.Errorf("cqrs: send %q: %w", e.Name, err)
	}
	return nil
}

// SendAt is Send with the option [At].
func (s *Sender) SendAt(ctx context.Context, at time.Time, cmd any) error {
	return s.Send(ctx, cmd, At(at))
}

// Publish publishes events, in order. Neighbors of one topic go to the publisher in one call. Errors are those
// of Send; without an outbox the events before the failing topic are out.
func (s *Sender) Publish(ctx context.Context, events ...any) error {
	var run []*message.Message
	var topic string
	flush := func() error {
		if len(run) == 0 {
			return nil
		}
		if err := s.pub.Publish(topic, run...); err != nil {
			return fmt.Errorf("cqrs: publish to %q: %w", topic, err)
		}
		run = nil
		return nil
	}
	for i, v := range events {
		e, m, err := s.message(ctx, v, KindEvent, nil)
		if err != nil {
			return fmt.Errorf("cqrs: publish: %w", err)
		}
		if e.Topic != topic {
			if err := flush(); err != nil {
				return err
			}
			topic = e.Topic
		}
		if i == 0 { // as a rule all are for one topic
			run = make([]*message.Message, 0, len(events))
		}
		run = append(run, m)
	}
	return flush()
}

func (s *Sender) message(ctx context.Context, v any, k Kind, o []SendOption) (*typeEntry, *message.Message, error) {
	e := s.catalog.entryOf(v)
	if e == nil {
		return nil, nil, fmt.Errorf("%w: %T", ErrUnknownType, v)
	}
	if e.Kind != k {
		return nil, nil, fmt.Errorf("cqrs: %q is a %s, not a %s", e.Name, e.Kind, k)
	}
	if r := reflect.ValueOf(v); r.Kind() == reflect.Pointer && r.IsNil() {
		return nil, nil, fmt.Errorf("cqrs: %q is a nil %T", e.Name, v)
	}
	if err := e.check(v); err != nil {
		return nil, nil, err
	}
	payload, err := s.catalog.codec.Encode(v)
	if err != nil {
		return nil, nil, fmt.Errorf("cqrs: encode %q: %w", e.Name, err)
	}
	out := outgoing{env: Envelope{Type: e.Name, Version: e.Version, Kind: e.Kind}}
	if e.key != nil {
		out.env.Key = e.key(v)
	}
	if len(o) > 0 {
		out = out.with(o)
	}
	if year := out.at.UTC().Year(); year > 9999 { // RFC 3339, in which the header is, has no more digits
		return nil, nil, fmt.Errorf("cqrs: %q is to be delivered in the year %d; 9999 at the latest", e.Name, year)
	}
	return e, s.seal(ctx, out, payload), nil
}

func (out outgoing) with(options []SendOption) outgoing {
	for _, o := range options {
		o.apply(&out)
	}
	return out
}

// seal gives a message its identity and its place among the others.
func (s *Sender) seal(ctx context.Context, out outgoing, payload []byte) *message.Message {
	env := &out.env
	env.ID, env.Source, env.OccurredAt = newID(), s.cfg.Source, time.Now()
	if out.at.After(env.OccurredAt) {
		env.OccurredAt = out.at // its age, see MaxAge, counts from when it is due
	}
	env.Correlation = env.ID
	collect(ctx, env.ID)
	if sc := scopeOf(ctx); sc != nil {
		from := sc.origin()
		env.Correlation, env.Causation = from.Correlation, from.ID
		if env.Conversation == "" {
			env.Conversation = from.Conversation
		}
	}
	injectTrace(ctx, env)
	m := message.NewMessage(env.ID, payload)
	m.Metadata = env.Metadata()
	m.Metadata[HeaderContentType] = s.catalog.codec.ContentType()
	if !out.at.IsZero() {
		m.Metadata[HeaderDeliverAt] = out.at.UTC().Format(time.RFC3339Nano)
	}
	m.SetContext(ctx)
	return m
}
