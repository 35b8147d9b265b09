// Package hosttest runs a service inside a test: the real one, on the test's database, with an in-process bus.
//
//	svc := hosttest.Open(t, db, catalog)
//	register(svc.Service)
//	id, err := cqrs.Execute(ctx, svc.Processor, PlaceOrder{SKU: "hat"})
//	svc.Settle()
//	events := hosttest.Sent[OrderPlaced](svc)
package hosttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/host"
	"github.com/surge-go/surge/cqrs/localbus"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// Deadline is how long [Service.Settle] waits, unless the test's own deadline is nearer.
const Deadline = 10 * time.Second

// Service is a host.Service whose messages are kept for the test to look at. It is safe for concurrent use.
type Service struct {
	*host.Service

	t     testing.TB
	bus   *localbus.Bus
	start sync.Once
	ended chan error

	mu   sync.Mutex
	sent []*message.Message
}

// Open opens a service on db with an in-process bus that drops what nobody reads. cfg may be left out; its Transport
// and Publisher are replaced. The service runs from the first [Service.Settle] or [Service.Start] until the test
// ends, and fails the test if it does not stop in an orderly way.
func Open(t testing.TB, db *gorm.DB, c *cqrs.Catalog, cfg ...host.Config) *Service {
	t.Helper()
	var conf host.Config
	if len(cfg) > 0 {
		conf = cfg[0]
	}
	s := &Service{t: t, ended: make(chan error, 1)}
	s.bus = localbus.New(localbus.Config{Discard: true, InTransaction: uow.In})
	conf.Transport = s.bus
	conf.Publisher = func(next message.Publisher) message.Publisher { return &recorder{next, s} }
	svc, err := host.Open(t.Context(), "test", db, c, conf)
	if err != nil {
		t.Fatal(err)
	}
	s.Service = svc
	t.Cleanup(func() {
		if err := s.bus.Close(); err != nil {
			t.Errorf("hosttest: close the bus: %v", err)
		}
	})
	return s
}

// Start runs the service, once all handlers are registered. [Service.Settle] does it too.
func (s *Service) Start() {
	s.start.Do(func() {
		ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
		go func() { s.ended <- s.Run(ctx) }()
		s.t.Cleanup(func() {
			cancel()
			if err := <-s.ended; err != nil {
				s.t.Errorf("hosttest: %v", err)
			}
		})
	})
}

// Settle delivers until nothing is on its way: no message in the outbox or on the bus, none parked except behind a
// dead letter, no effect under way. It fails the test if that takes longer than [Deadline]. Messages scheduled for
// later are not waited for.
func (s *Service) Settle() {
	s.t.Helper()
	s.Start()
	deadline := time.NewTimer(Deadline)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	quiet := 0
	for {
		left, err := s.left()
		if err == nil && left == "" {
			if quiet++; quiet == 2 { // once could be between two places
				return
			}
		} else {
			quiet = 0
		}
		select {
		case err := <-s.ended:
			s.ended <- err
			s.t.Fatalf("hosttest: the service ended: %v", err)
		case <-deadline.C:
			s.t.Fatalf("hosttest: not settled after %v: %s %v", Deadline, left, err)
		case <-tick.C:
		}
	}
}

// left names what is still on its way.
func (s *Service) left() (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), Deadline)
	defer cancel()
	stats, err := s.Outbox.Stats(ctx)
	if err != nil {
		return "", err
	}
	effects, err := s.Effects.Stats(ctx)
	if err != nil {
		return "", err
	}
	var parked int64
	err = s.DB().WithContext(ctx).Raw("SELECT COUNT(*) FROM cqrs_parked p WHERE NOT EXISTS (SELECT 1 FROM cqrs_parked b" +
		" WHERE b.grp=p.grp AND b.queue=p.queue AND b.blocked)").Scan(&parked).Error
	if err != nil {
		return "", err
	}
	if stats.Depth+stats.Retrying+effects.Open+parked == 0 {
		return "", nil
	}
	return fmt.Sprintf("outbox %d, retrying %d, effects %d, parked %d",
		stats.Depth, stats.Retrying, effects.Open, parked), nil
}

// Sent returns the committed messages of type M so far, commands and events, in the order in which they were
// committed. It fails the test for a type that is not in the catalog.
func Sent[M any](s *Service) []M {
	s.t.Helper()
	catalog := s.Processor.Catalog()
	var probe M
	info, ok := catalog.Lookup(probe)
	if !ok {
		s.t.Fatalf("hosttest: %T is not in the catalog", probe)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []M
	for _, m := range s.sent {
		env := cqrs.EnvelopeFrom(m)
		if env.Type != info.Name || env.Kind == cqrs.KindReply {
			continue
		}
		v, err := catalog.Decode(&cqrs.Delivery{Envelope: env, Payload: m.Payload, Metadata: m.Metadata})
		if err != nil {
			s.t.Fatalf("hosttest: decode %s: %v", env.Type, err)
		}
		found = append(found, v.(M))
	}
	return found
}

// A recorder notes what is published in transactions that commit.
type recorder struct {
	next message.Publisher
	s    *Service
}

// Publish publishes and, after the commit, notes.
func (r *recorder) Publish(topic string, msgs ...*message.Message) error {
	if err := r.next.Publish(topic, msgs...); err != nil {
		return err
	}
	for _, m := range msgs {
		err := uow.AfterCommit(m.Context(), func() {
			r.s.mu.Lock()
			defer r.s.mu.Unlock()
			r.s.sent = append(r.s.sent, m)
		})
		if err != nil && !errors.Is(err, uow.ErrNoTransaction) {
			return err
		}
	}
	return nil
}

// Close closes the publisher behind it.
func (r *recorder) Close() error { return r.next.Close() }
