package kafkabus_test

import (
	"sync/atomic"
	"testing"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
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
