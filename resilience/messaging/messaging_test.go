package messaging_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/surge-go/surge/resilience"
	"github.com/surge-go/surge/resilience/messaging"
)

var errDown = errors.New("down")

func pipeline(t *testing.T, ps ...resilience.Policy) *resilience.Pipeline {
	t.Helper()
	return resilience.Must(resilience.New(t.Name(), ps...))
}

func newMessage(ctx context.Context) *message.Message {
	return message.NewMessageWithContext(ctx, "id", message.Payload("payload"))
}

func TestRule12_AnOpenBreakerPausesInsteadOfSpinning(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.NewBreaker(resilience.BreakerConfig{Consecutive: 1, Cooldown: 5 * time.Second}))
		ran := 0
		h := messaging.Middleware(p)(func(*message.Message) ([]*message.Message, error) {
			if ran++; ran < 4 {
				return nil, errDown
			}
			return []*message.Message{newMessage(t.Context())}, nil
		})
		msg := newMessage(t.Context())
		began := time.Now()
		deliveries := 0
		for { // as a broker does with what is nacked
			deliveries++
			produced, err := h(msg)
			if err == nil {
				if len(produced) != 1 {
					t.Errorf("produced %v", produced)
				}
				break
			}
			if !errors.Is(err, errDown) {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); ran != 4 || deliveries != 4 || took != 15*time.Second {
			t.Errorf("ran %d times in %d deliveries and %v, want a probe every 5s", ran, deliveries, took)
		}
		if msg.Context() != t.Context() {
			t.Error("the message kept a context of the pipeline")
		}
	})
}

func TestMiddlewareDoesNotSpinWhileAProbeIsUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := resilience.NewBreaker(resilience.BreakerConfig{Consecutive: 1, Cooldown: time.Second, ProbeTimeout: time.Hour})
		var calls atomic.Int64
		p := pipeline(t, resilience.Wrap("count", func(ctx context.Context, next func(context.Context) error) error {
			calls.Add(1)
			return next(ctx)
		}), b)
		var first atomic.Bool
		h := messaging.Middleware(p)(func(*message.Message) ([]*message.Message, error) {
			if first.CompareAndSwap(false, true) {
				return nil, errDown
			}
			time.Sleep(10 * time.Second)
			return nil, nil
		})
		_, _ = h(newMessage(t.Context()))
		done := make(chan error)
		for range 10 {
			go func() { _, err := h(newMessage(t.Context())); done <- err }()
		}
		for range 10 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if n := calls.Load(); n > 11+10*40 { // four times a second each
			t.Errorf("%d calls for 11 messages", n)
		}
	})
}

func TestMiddlewareEndsWithTheMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := resilience.NewBreaker(resilience.BreakerConfig{})
		b.ForceOpen()
		h := messaging.Middleware(pipeline(t, b))(func(*message.Message) ([]*message.Message, error) {
			t.Error("ran")
			return nil, nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := h(newMessage(ctx))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestMiddlewareGivesTheHandlerTheTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := messaging.Middleware(pipeline(t, resilience.Timeout(time.Second)))(
			func(msg *message.Message) ([]*message.Message, error) {
				<-msg.Context().Done()
				return nil, msg.Context().Err()
			})
		_, err := h(newMessage(t.Context()))
		if _, ok := errors.AsType[*resilience.TimeoutError](err); !ok {
			t.Errorf("got %v", err)
		}
	})
}

// A stock router and a stock subscriber: nothing is lost, and the handler runs a few times, not thousands.
func TestMiddlewareOnAStockRouter(t *testing.T) {
	t.Parallel()
	bus := gochannel.NewGoChannel(gochannel.Config{}, watermill.NopLogger{})
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: 10 * time.Second}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	p := pipeline(t, resilience.NewBreaker(resilience.BreakerConfig{Consecutive: 2, Cooldown: 60 * time.Millisecond}))
	var ran atomic.Int64
	handled := make(chan string, 10)
	router.AddConsumerHandler("h", "topic", bus, func(msg *message.Message) error {
		if ran.Add(1) <= 4 {
			return errDown
		}
		handled <- msg.UUID
		return nil
	}).AddMiddleware(messaging.Middleware(p))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- router.Run(ctx) }()
	<-router.Running()
	for _, id := range []string{"1", "2"} {
		if err := bus.Publish("topic", message.NewMessage(id, nil)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		select {
		case <-handled:
		case <-ctx.Done():
			t.Fatal("not handled in time")
		}
	}
	if n := ran.Load(); n != 6 {
		t.Errorf("the handler ran %d times, want 6", n)
	}
	if err := router.Close(); err != nil {
		t.Error(err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

type publisher struct {
	fails  int
	sent   []string
	closed bool
}

func (p *publisher) Publish(topic string, ms ...*message.Message) error {
	if p.fails > 0 {
		p.fails--
		return errDown
	}
	for _, m := range ms {
		p.sent = append(p.sent, topic+" "+m.UUID)
	}
	return nil
}

func (p *publisher) Close() error {
	p.closed = true
	return nil
}

func TestPublisher(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		to := &publisher{fails: 2}
		b := resilience.NewBreaker(resilience.BreakerConfig{Consecutive: 5})
		pub := messaging.Publisher(pipeline(t, resilience.Retry(resilience.RetryConfig{}), b), to)
		if err := pub.Publish("t", message.NewMessage("1", nil), message.NewMessage("2", nil)); err != nil {
			t.Error(err)
		}
		if err := pub.Publish("t"); err != nil {
			t.Error(err)
		}
		b.ForceOpen()
		err := pub.Publish("t", message.NewMessage("3", nil))
		if _, ok := errors.AsType[*resilience.RejectedError](err); !ok {
			t.Errorf("got %v", err)
		}
		if len(to.sent) != 2 || to.sent[1] != "t 2" {
			t.Errorf("sent %v", to.sent)
		}
		if err := pub.Close(); err != nil || !to.closed {
			t.Error("not closed")
		}
	})
}
