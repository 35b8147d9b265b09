package kafkabus

import (
	"context"

	"github.com/IBM/sarama"

	"github.com/surge-go/surge/cqrs"
)

// placed is a context that knows its record, and answers [cqrs.PositionOf].
type placed struct {
	context.Context
	rec *sarama.ConsumerMessage
}

func (p *placed) Value(key any) any {
	if key == (cqrs.PositionKey{}) {
		r := p.rec
		return cqrs.Position{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Time: r.Timestamp}
	}
	return p.Context.Value(key)
}
