package kafkabus_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"

	"github.com/surge-go/surge/cqrs/kafkabus"
)

// tracer sees what watermill-kafka's tracers see.
type tracer struct {
	kafka.SaramaTracer
	claims atomic.Int32
}

type tracedHandler struct {
	sarama.ConsumerGroupHandler
	claims *atomic.Int32
}

func (t *tracer) WrapConsumerGroupHandler(h sarama.ConsumerGroupHandler) sarama.ConsumerGroupHandler {
	return &tracedHandler{h, &t.claims}
}

func (h *tracedHandler) ConsumeClaim(s sarama.ConsumerGroupSession, c sarama.ConsumerGroupClaim) error {
	h.claims.Add(1)
	return h.ConsumerGroupHandler.ConsumeClaim(s, c)
}

func TestTracers(t *testing.T) {
	t.Parallel()
	brokers := fake(t).ListenAddrs()
	cfg := quickConfig()
	cfg.Publisher.OTELEnabled = true
	cfg.Subscriber.Tracer = kafka.NewOTELSaramaTracer()
	roundTrip(t, brokers, cfg)

	own := &tracer{}
	cfg.Subscriber.Tracer = own
	roundTrip(t, brokers, cfg)
	if own.claims.Load() == 0 {
		t.Fatal("the tracer was not asked")
	}
}

// mute is a producer whose answers wait.
type mute struct {
	kafka.SaramaTracer
	entered chan struct{} // closed by the first batch
	answers chan struct{}
}

type muted struct {
	sarama.SyncProducer
	mute
}

func (m mute) WrapSyncProducer(_ *sarama.Config, p sarama.SyncProducer) sarama.SyncProducer {
	return muted{p, m}
}

func (m muted) SendMessages(msgs []*sarama.ProducerMessage) error {
	close(m.entered)
	<-m.answers
	return m.SyncProducer.SendMessages(msgs)
}

// A batch whose Publish has given up and that never gets an answer does not keep Close waiting for ever.
func TestCloseLeavesBehindWhatGetsNoAnswer(t *testing.T) {
	t.Parallel()
	m := mute{entered: make(chan struct{}), answers: make(chan struct{})}
	defer close(m.answers)
	cfg := quickConfig()
	cfg.Publisher.Tracer = m
	cfg.Publisher.OverwriteSaramaConfig = quick()
	cfg.Publisher.OverwriteSaramaConfig.Net.ReadTimeout = time.Second
	bus, err := kafkabus.New(fake(t).ListenAddrs(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		<-m.entered
		cancel()
	}()
	msg := keyed("k", "0")[0]
	msg.SetContext(ctx)
	if err := bus.Publisher().Publish("topic", msg); !errors.Is(err, context.Canceled) {
		t.Errorf("Publish: %v", err)
	}
	if err := bus.Close(); !errors.Is(err, kafkabus.ErrUnanswered) {
		t.Errorf("Close: %v", err)
	}
}
