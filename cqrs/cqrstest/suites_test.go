package cqrstest_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/surge-go/surge/cqrs/cqrstest"
	"github.com/surge-go/surge/cqrs/localbus"
)

func TestRepositorySuite(t *testing.T) {
	t.Parallel()
	cqrstest.RunRepository(t, func(*testing.T) cqrstest.RepositoryFixture {
		r := cqrstest.NewRepository[cqrstest.Sample, string](func(s *cqrstest.Sample) string { return s.ID })
		return cqrstest.RepositoryFixture{Repository: r, Published: r.Events}
	})
}

// stock is Watermill's gochannel, which knows no groups. Closing a subscriber of it closes it for all, so each gets
// a handle.
type stock struct{ *gochannel.GoChannel }

func (s stock) Publisher() message.Publisher { return s.GoChannel }

func (s stock) Subscriber(string) (message.Subscriber, error) { return &handle{bus: s.GoChannel}, nil }

type handle struct {
	bus *gochannel.GoChannel

	mu     sync.Mutex
	ends   []context.CancelFunc
	closed bool
}

func (h *handle) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, errors.New("closed")
	}
	ctx, cancel := context.WithCancel(ctx)
	h.ends = append(h.ends, cancel)
	return h.bus.Subscribe(ctx, topic)
}

func (h *handle) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, end := range h.ends {
		end()
	}
	return nil
}

// A stock Pub/Sub that claims nothing passes what is left of the suite.
func TestBusSuiteOnGoChannel(t *testing.T) {
	t.Parallel()
	cqrstest.RunBus(t, func(t *testing.T, _ time.Duration) cqrstest.BusFixture {
		bus := gochannel.NewGoChannel(gochannel.Config{}, nil)
		t.Cleanup(func() {
			if err := bus.Close(); err != nil {
				t.Error(err)
			}
		})
		return cqrstest.BusFixture{Bus: stock{bus}}
	})
}

func TestBusSuite(t *testing.T) {
	t.Parallel()
	cqrstest.RunBus(t, func(t *testing.T, drain time.Duration) cqrstest.BusFixture {
		bus := localbus.New(localbus.Config{Drain: drain, Attempts: 1000})
		t.Cleanup(func() {
			if err := bus.Close(); err != nil {
				t.Error(err)
			}
		})
		return cqrstest.BusFixture{Bus: bus, Claims: cqrstest.BusClaims{
			Groups: true, Durable: true, Order: true, Drains: true, Window: 1024,
		}}
	})
}
