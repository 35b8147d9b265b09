package kafkabus

import (
	"context"
	"time"

	"github.com/IBM/sarama"

	"github.com/surge-go/surge/cqrs"
)

// Position is the place of a record.
type Position struct {
	Topic     string
	Partition int32
	Offset    int64
	Timestamp time.Time // by the producer's clock, or the broker's if the topic says so
}

type positionKey struct{}

// PositionOf returns where the message whose context it is was read; false for contexts that do not
// come from a message of this package.
func PositionOf(ctx context.Context) (Position, bool) {
	rec, ok := ctx.Value(positionKey{}).(*sarama.ConsumerMessage)
	if !ok {
		return Position{}, false
	}
	return Position{Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset, Timestamp: rec.Timestamp}, true
}

// positioned is a context that knows its record.
type positioned struct {
	context.Context
	rec *sarama.ConsumerMessage
}

func (p *positioned) Value(key any) any {
	switch key {
	case positionKey{}:
		return p.rec
	case cqrs.PositionKey{}:
		return cqrs.Position{
			Topic: p.rec.Topic, Partition: p.rec.Partition, Offset: p.rec.Offset, Time: p.rec.Timestamp,
		}
	}
	return p.Context.Value(key)
}
