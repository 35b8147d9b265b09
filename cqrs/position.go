package cqrs

import (
	"context"
	"time"
)

// Position is the place of a message in a topic whose bus keeps its messages in numbered partitions, as Kafka does.
type Position struct {
	Topic     string
	Partition int32
	Offset    int64     // grows within the partition; there may be gaps
	Time      time.Time // the bus's; zero if it has none
}

// PositionKey is the key under which the context of a bus's message answers with its [Position].
type PositionKey struct{}

// PositionOf returns where the message whose context it is was read; false if its bus has no positions.
func PositionOf(ctx context.Context) (Position, bool) {
	p, ok := ctx.Value(PositionKey{}).(Position)
	return p, ok
}
