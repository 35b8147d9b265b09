package cqrstest

import (
	"context"
	"encoding/json"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/surge-go/surge/cqrs"
)

// A Scenario runs a service's handlers on messages of a test: Given what happened, When a message comes, Then these
// are sent. Messages go the whole way, encoded and through a processor's lanes, one after the other.
// It is not safe for concurrent use.
type Scenario struct {
	Recorder *Recorder // everything that the last When sent

	t       testing.TB
	s       *cqrs.Sender
	p       *cqrs.Processor
	bus     *bus
	last    cqrs.Answer
	refused *cqrs.Rejection
}

// NewScenario makes a processor, has register add the handlers, and runs it until the test ends.
func NewScenario(t testing.TB, c *cqrs.Catalog, register func(*cqrs.Processor, *cqrs.Sender)) *Scenario {
	t.Helper()
	sc := &Scenario{Recorder: NewRecorder(c), t: t, bus: &bus{topics: map[string]chan *message.Message{}}}
	s, err := cqrs.NewSender(c, sc.Recorder, cqrs.SenderConfig{Source: "test"})
	if err != nil {
		t.Fatal(err)
	}
	sc.s = s
	p, err := cqrs.NewProcessor("test", s, cqrs.ProcessorConfig{
		Subscribe:   func(string) (message.Subscriber, error) { return sc.bus, nil },
		UnitOfWork:  plain{},
		DeadLetters: &sc.bus.dead,
		Retry:       cqrs.Retry{Attempts: 1},
		Lanes:       1,
	})
	if err != nil {
		t.Fatal(err)
	}
	sc.p = p
	register(p, s)
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	<-p.Running()
	return sc
}

// Given has messages handled, then forgets what was sent. A handler's failure or refusal fails the test.
func (s *Scenario) Given(messages ...any) *Scenario {
	s.t.Helper()
	for _, m := range messages {
		s.handle(m)
		if s.refused != nil {
			s.t.Fatalf("given %+v: refused: %v", m, s.refused)
		}
	}
	s.Recorder.Forget()
	return s
}

// When has a message handled. A handler's failure fails the test; a refusal is for ThenRejected.
func (s *Scenario) When(m any) *Scenario {
	s.t.Helper()
	s.Recorder.Forget()
	s.handle(m)
	return s
}

// Then fails the test unless exactly these messages were sent, in order, the reply left out.
func (s *Scenario) Then(want ...any) *Scenario {
	s.t.Helper()
	if s.refused != nil {
		s.t.Errorf("refused: %v", s.refused)
	}
	s.compare(want)
	return s
}

// ThenRejected fails the test unless the message was refused with this code, and nothing was sent.
func (s *Scenario) ThenRejected(code string) *Scenario {
	s.t.Helper()
	switch {
	case s.refused == nil:
		s.t.Errorf("not refused, want %q", code)
	case s.refused.Code != code:
		s.t.Errorf("refused with %q, want %q", s.refused.Code, code)
	}
	s.compare(nil)
	return s
}

// Result returns the result of the last When. It fails the test if there is none.
func Result[R any](s *Scenario) R {
	s.t.Helper()
	var r R
	if s.last.Outcome != cqrs.OutcomeOK {
		s.t.Fatalf("no result: outcome %q %v", s.last.Outcome, s.refused)
	}
	if err := s.s.Catalog().Codec().Decode(s.last.Payload, &r); err != nil {
		s.t.Fatalf("result: %v", err)
	}
	return r
}

func (s *Scenario) compare(want []any) {
	s.t.Helper()
	var got []any
	for _, m := range s.Recorder.Sent() {
		if m.Envelope.Kind != cqrs.KindReply {
			got = append(got, m.Message)
		}
	}
	if len(got) == 0 && len(want) == 0 || reflect.DeepEqual(got, want) {
		return
	}
	s.t.Errorf("sent %s, want %s", show(got), show(want))
}

func show(v []any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

const replies = "test.replies"

// handle delivers a message and waits until it is handled.
func (s *Scenario) handle(v any) {
	s.t.Helper()
	c := s.s.Catalog()
	info, ok := c.Lookup(v)
	if !ok {
		s.t.Fatalf("%T is not in the catalog", v)
	}
	payload, err := c.Codec().Encode(v)
	if err != nil {
		s.t.Fatal(err)
	}
	env := cqrs.Envelope{
		Type: info.Name, Version: info.Version, Kind: info.Kind, Key: c.KeyOf(v), Source: "test", OccurredAt: time.Now(),
	}
	if info.Kind == cqrs.KindCommand {
		env.ReplyTo = replies
	}
	m := message.NewMessage(uuid.NewString(), payload)
	m.Metadata = env.Metadata()
	s.bus.dead.take()
	skipped := s.p.Stats().Skipped
	if !s.bus.deliver(info.Topic, m) {
		s.t.Fatalf("nobody handles %q", info.Name)
	}
	s.outcome(v, m)
	if s.p.Stats().Skipped > skipped { // of a topic that is read for others
		s.t.Fatalf("nobody handles %q", info.Name)
	}
}

func (s *Scenario) outcome(v any, m *message.Message) {
	s.t.Helper()
	select {
	case <-m.Acked():
	case <-time.After(time.Minute):
		s.t.Fatalf("%+v was not handled within a minute", v)
	}
	s.last, s.refused = cqrs.Answer{}, nil
	for _, sent := range s.Recorder.Sent() {
		if sent.Topic != replies || sent.Envelope.Causation != m.UUID {
			continue
		}
		a, err := cqrs.ParseAnswer(&cqrs.Delivery{Envelope: sent.Envelope, Payload: sent.Payload})
		if err != nil {
			s.t.Fatal(err)
		}
		s.last, s.refused = a, a.Rejection
	}
	if d := s.bus.dead.take(); d != nil {
		s.t.Fatalf("%+v failed: %s", v, d.Reason)
	}
}

// plain runs without a transaction.
type plain struct{}

func (plain) Do(ctx context.Context, fn func(context.Context) error) error { return fn(ctx) }

// bus hands messages to the one processor.
type bus struct {
	dead   dead
	mu     sync.Mutex
	topics map[string]chan *message.Message
}

func (b *bus) Subscribe(_ context.Context, topic string) (<-chan *message.Message, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ch := make(chan *message.Message, 1)
	b.topics[topic] = ch
	return ch, nil
}

func (b *bus) deliver(topic string, m *message.Message) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	ch := b.topics[topic]
	if ch == nil {
		return false
	}
	ch <- m
	return true
}

func (b *bus) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, ch := range b.topics {
		close(ch)
	}
	clear(b.topics)
	return nil
}

// dead remembers the last message that failed.
type dead struct {
	mu   sync.Mutex
	last *cqrs.DeadLetter
}

func (d *dead) take() *cqrs.DeadLetter {
	d.mu.Lock()
	defer d.mu.Unlock()
	last := d.last
	d.last = nil
	return last
}

// Put remembers the last letter.
func (d *dead) Put(_ context.Context, letters []*cqrs.DeadLetter) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range letters {
		d.last = l
	}
	return nil
}

func (d *dead) Get(context.Context, string, []string) ([]*cqrs.DeadLetter, error) { return nil, nil }

func (d *dead) Replay(context.Context, string, []string) ([]*cqrs.DeadLetter, error) { return nil, nil }

func (d *dead) Resolve(context.Context, string, []string) error { return nil }
