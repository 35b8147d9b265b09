package kafkabus_test

import (
	"testing"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs/kafkabus"
)

// moody unmarshals what the record asks for.
type moody struct{ kafkabus.Marshaler }

type moodyError struct{ text string }

func (e *moodyError) Error() string { return e.text }

func (m moody) Unmarshal(rec *sarama.ConsumerMessage) (*message.Message, error) {
	switch string(rec.Value) {
	case "panic":
		panic("index out of range")
	case "nothing":
		return nil, nil
	case "typed nil":
		return nil, (*moodyError)(nil)
	}
	return m.Marshaler.Unmarshal(rec)
}

// Whatever a record does to the unmarshaler, it is one that cannot be decoded: it ends neither its partition nor the
// process, which it would meet again after each restart.
func TestARecordThatBreaksTheUnmarshalerIsUndecodable(t *testing.T) {
	t.Parallel()
	for name, undecodable := range map[string]func(*sarama.ConsumerMessage, error) *message.Message{
		"by default":             nil,
		"Undecodable panics too": func(*sarama.ConsumerMessage, error) *message.Message { panic("no luck") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := quickConfig()
			cfg.Subscriber.Unmarshaler, cfg.Undecodable = moody{}, undecodable
			bus := open(t, fake(t).ListenAddrs(), cfg)
			name := topic(t, bus, 1)
			publish(t, bus, name, keyed("k", "panic", "nothing", "typed nil", "good")...)
			got := read(t, subscribe(t, subscriber(t, bus, "g"), name), 4)
			wantIDs(t, got, name+"/0/0", name+"/0/1", name+"/0/2", "good")
			for _, m := range got[:3] {
				if m.Metadata["ce_type"] != kafkabus.TypeUndecodable || m.Metadata[kafkabus.HeaderUndecodable] == "" {
					t.Errorf("metadata %v", m.Metadata)
				}
			}
			ack(got...)
		})
	}
}
