package kafkabus

import (
	"context"
	"errors"
	"fmt"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
)

// decode makes the message, unless the record is to be skipped.
func (c *claim) decode(it *item) {
	msg, err := c.unmarshal(it.rec)
	if err != nil {
		c.cfg.Logger.Error("record cannot be decoded", "topic", it.rec.Topic,
			"partition", it.rec.Partition, "offset", it.rec.Offset, "error", err)
		if msg = c.undecodable(it.rec, err); msg == nil {
			it.done = true
			return
		}
	}
	ctx, cancel := context.WithCancel(c.ctx)
	it.msg, it.cancel = msg, cancel
	msg.SetContext(&placed{ctx, it.rec})
}

// unmarshal turns whatever the unmarshaler does to a record that it cannot cope with into an error. A panic would end
// the process, which would meet the same record after each restart.
func (c *claim) unmarshal(rec *sarama.ConsumerMessage) (msg *message.Message, err error) {
	defer func() {
		if v := recover(); v != nil {
			msg, err = nil, fmt.Errorf("kafkabus: Subscriber.Unmarshaler panicked: %v", v)
		}
	}()
	msg, err = c.cfg.Subscriber.Unmarshaler.Unmarshal(rec)
	switch {
	case err != nil:
		_ = err.Error() // one that panics, as a typed nil may, panics here
	case msg == nil:
		err = errors.New("kafkabus: Subscriber.Unmarshaler returned neither a message nor an error")
	}
	return msg, err
}

// undecodable asks what becomes of a record; where the answer is a panic, it becomes what it does by default.
func (c *claim) undecodable(rec *sarama.ConsumerMessage, reason error) (msg *message.Message) {
	defer func() {
		if v := recover(); v != nil {
			msg = MarkUndecodable(rec, fmt.Errorf("%w; Config.Undecodable panicked: %v", reason, v))
		}
	}()
	return c.cfg.Undecodable(rec, reason)
}
