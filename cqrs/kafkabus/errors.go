package kafkabus

import (
	"errors"
	"fmt"

	"github.com/IBM/sarama"
)

var (
	// ErrClosed is returned by what is used after, or interrupted by, Close.
	ErrClosed = errors.New("kafkabus: closed")

	// ErrUnanswered is returned by Close when brokers do not answer. Of a publisher: whether what was being sent is in
	// Kafka is not known. Of a subscriber: the group may find out by the session timeout only that the member has left,
	// and what was not committed comes again.
	ErrUnanswered = errors.New("kafkabus: closed while brokers owe answers")

	// ErrPartitions is returned when a topic exists with another number of partitions than it should have.
	ErrPartitions = errors.New("kafkabus: topic has another number of partitions")
)

// A PublishError says which messages of a batch are not known to be in Kafka. Publish those again, in
// their order: a message whose answer was lost is then there twice, and so may be one that follows a
// failed message of its key.
type PublishError struct {
	Topic   string
	Indexes []int // of the messages that failed, ascending, counted from 0 in the order given to Publish
	Size    int   // of the batch
	Err     error // the first failure
}

// Error names the topic, how many messages failed and the first cause.
func (e *PublishError) Error() string {
	return fmt.Sprintf("kafkabus: publish to %q: %d of %d messages failed: %v", e.Topic, len(e.Indexes), e.Size, e.Err)
}

// Unwrap returns the first cause.
func (e *PublishError) Unwrap() error { return e.Err }

// Failed returns the indexes of the messages that failed; the others are in Kafka.
func (e *PublishError) Failed() []int { return e.Indexes }

// Refused reports whether the batch was a single message that can never be published as it is: it
// cannot be marshaled, is larger than Producer.MaxMessageBytes, or the broker finds it, or its topic's
// name, too large or invalid.
func (e *PublishError) Refused() bool {
	if e.Size != 1 {
		return false
	}
	var m *marshalError
	if errors.As(e.Err, &m) {
		return true
	}
	for _, refusal := range []error{
		sarama.ErrMessageSizeTooLarge, sarama.ErrInvalidMessage, sarama.ErrInvalidMessageSize,
		sarama.ErrInvalidRecord, sarama.ErrInvalidTimestamp, sarama.ErrInvalidTopic,
	} {
		if errors.Is(e.Err, refusal) {
			return true
		}
	}
	return false
}

type marshalError struct{ err error }

func (e *marshalError) Error() string { return "marshal: " + e.err.Error() }
func (e *marshalError) Unwrap() error { return e.err }
