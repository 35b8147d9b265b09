package localbus

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed is returned by what is used after, or interrupted by, Close.
	ErrClosed = errors.New("localbus: closed")

	// ErrNoReader is returned when no group reads the topic and Config.Discard is off.
	ErrNoReader = errors.New("localbus: no group reads the topic")

	// ErrAbsent is returned when a group that reads the topic had no subscriber for Config.Wait.
	ErrAbsent = errors.New("localbus: a group that reads the topic is absent")

	// ErrNacked is returned when a group nacked a message Config.Attempts times.
	ErrNacked = errors.New("localbus: message was nacked too often")

	// ErrInTransaction is returned for messages whose context carries a transaction.
	ErrInTransaction = errors.New("localbus: publishing inside a transaction")
)

// A PublishError says which messages of a batch not every group has acked. Those may be published
// again; groups that had acked them see them twice.
type PublishError struct {
	Topic   string
	Indexes []int // of the messages that failed, ascending, counted from 0 in the order given to Publish
	Err     error // why: one of this package's errors, or the error of the first message's context
}

// Error names the topic, the number of failed messages and the cause.
func (e *PublishError) Error() string {
	return fmt.Sprintf("localbus: publish to %q: %d unacked: %v", e.Topic, len(e.Indexes), e.Err)
}

// Unwrap returns the cause.
func (e *PublishError) Unwrap() error { return e.Err }

// Failed returns the indexes of the messages that failed; the others were acked by every group.
func (e *PublishError) Failed() []int { return e.Indexes }
