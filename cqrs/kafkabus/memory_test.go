package kafkabus_test

import (
	"runtime"
	"sync"
	"testing"
	"weak"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs/kafkabus"
)

// watched remembers records without keeping them.
type watched struct {
	kafkabus.Marshaler
	mu   *sync.Mutex
	recs *[]weak.Pointer[sarama.ConsumerMessage]
}

func (w watched) Unmarshal(rec *sarama.ConsumerMessage) (*message.Message, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*w.recs = append(*w.recs, weak.Make(rec))
	return w.Marshaler.Unmarshal(rec)
}

// A partition that is quiet after a burst does not keep the burst's records in memory.
func TestAckedRecordsAreFreed(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var recs []weak.Pointer[sarama.ConsumerMessage]
	cfg := quickConfig()
	cfg.Subscriber.Unmarshaler = watched{mu: &mu, recs: &recs}
	bus := open(t, fake(t).ListenAddrs(), cfg)
	name := topic(t, bus, 1)
	publish(t, bus, name, keyed("k", numbered(100)...)...)
	in := subscribe(t, subscriber(t, bus, "g"), name)
	ack(read(t, in, 100)...)
	publish(t, bus, name, keyed("k", "last")...)
	ack(read(t, in, 1)...)
	eventually(t, "the records are freed", func() bool {
		runtime.GC()
		mu.Lock()
		defer mu.Unlock()
		kept := 0
		for _, r := range recs {
			if r.Value() != nil {
				kept++
			}
		}
		return kept <= 1 // sarama holds the last one
	})
}
