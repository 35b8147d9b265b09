package kafkabus

import (
	"context"
	"slices"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
)

// handler runs the claims of one session.
type handler struct {
	subscriber *subscriber
	client     sarama.Client
	drain      time.Duration
}

// Setup moves the session to where its partitions begin. That is committed also where nothing is read: from
// then on a group without offsets is one that has lost them.
func (h *handler) Setup(s sarama.ConsumerGroupSession) error {
	admin, err := sarama.NewClusterAdminFromClient(h.client) // not closed, that would close the client
	if err != nil {
		return err
	}
	begin, err := h.subscriber.start(h.client.Config()).offsets(s.Context(), admin, s.Claims())
	if err != nil {
		return err
	}
	for topic, partitions := range begin {
		for p, offset := range partitions {
			s.MarkOffset(topic, p, offset, "")  // forward
			s.ResetOffset(topic, p, offset, "") // back
		}
	}
	h.subscriber.bus.cfg.Logger.Info("partitions assigned", "group", h.subscriber.group,
		"member", s.MemberID(), "generation", s.GenerationID(), "partitions", s.Claims())
	return nil
}

// Cleanup commits at once what autocommit would commit in a second, so that the next owner starts there.
func (h *handler) Cleanup(s sarama.ConsumerGroupSession) error {
	s.Commit()
	return nil
}

// ConsumeClaim hands out the records of one partition until the session ends.
func (h *handler) ConsumeClaim(sess sarama.ConsumerGroupSession, in sarama.ConsumerGroupClaim) error {
	sub := h.subscriber.subscriptionOf(in.Topic(), in.Partition())
	if sub == nil || !sub.enter() {
		<-sess.Context().Done() // the topics have just changed
		return nil
	}
	ctx, cancel := context.WithCancel(sub.ctx)
	defer cancel()
	defer context.AfterFunc(sess.Context(), cancel)()
	c := &claim{
		cfg: &h.subscriber.bus.cfg, sess: sess, in: in.Messages(), out: sub.out,
		ctx: context.WithoutCancel(ctx), done: ctx.Done(),
	}
	for c.serve() {
	}
	c.cancel()
	sub.exit()
	c.drain(h.drain)
	return nil
}

// An item is one record that was received and is not marked.
type item struct {
	rec    *sarama.ConsumerMessage
	msg    *message.Message // delivered, or to be delivered next
	cancel context.CancelFunc
	tries  int
	done   bool // needs no delivery any more
}

func (it *item) reset() {
	if it.msg != nil {
		it.cancel()
		it.msg, it.cancel = nil, nil
	}
}

func (it *item) acked() bool {
	if it.done {
		return true
	}
	select {
	case <-it.msg.Acked():
		return true
	default:
		return false
	}
}

func (it *item) settled() bool {
	if it.acked() {
		return true
	}
	select {
	case <-it.msg.Nacked():
		return true
	default:
		return false
	}
}

// A claim is one partition in one session. It walks the oldest unacked record, so what it marks is
// never past a record that was received and not acked, whatever gaps the offsets have.
type claim struct {
	cfg  *Config
	sess sarama.ConsumerGroupSession
	in   <-chan *sarama.ConsumerMessage
	out  chan<- *message.Message
	ctx  context.Context // of the messages, which are ended one by one; see cancel
	done <-chan struct{} // session or subscription have ended

	queue []*item     // received, not acked; oldest first
	sent  int         // the first so many are delivered
	rest  *time.Timer // runs while the head, which was nacked, rests
}

// serve does the next thing; false means that the session is over.
func (c *claim) serve() bool {
	c.reap()
	var (
		in            <-chan *sarama.ConsumerMessage
		out           chan<- *message.Message
		next          *message.Message
		acked, nacked <-chan struct{}
		rested        <-chan time.Time
	)
	if len(c.queue) < c.cfg.Window {
		in = c.in
	}
	switch {
	case c.rest != nil:
		rested = c.rest.C
	default:
		if next = c.fill(); next != nil {
			out, in = c.out, nil // one behind is enough: sarama buffers as well
		}
		if c.sent > 0 {
			if c.queue[0].done {
				return true
			}
			acked, nacked = c.queue[0].msg.Acked(), c.queue[0].msg.Nacked()
		}
	}
	select {
	case <-c.done:
		return false
	case rec, ok := <-in:
		return c.receive(rec, ok)
	case out <- next:
		c.sent++
	case <-acked:
	case <-nacked:
		c.refused()
	case <-rested:
		c.rest = nil
		c.rewind()
	}
	return true
}

// receive takes a record and what else has arrived; a closed channel is the end of the session.
func (c *claim) receive(rec *sarama.ConsumerMessage, ok bool) bool {
	for ok {
		c.queue = append(c.queue, &item{rec: rec})
		if len(c.queue) >= c.cfg.Window {
			return true
		}
		select {
		case rec, ok = <-c.in:
		default:
			return true
		}
	}
	return false
}

// reap marks what is acked from the head on.
func (c *claim) reap() {
	n := 0
	for n < c.sent && c.queue[n].acked() {
		c.queue[n].reset()
		n++
	}
	if n > 0 {
		c.sess.MarkMessage(c.queue[n-1].rec, "")
		c.queue = c.queue[n:]
		c.sent -= n
	}
}

// fill delivers without waiting and returns the first message that has to wait.
func (c *claim) fill() *message.Message {
	for c.sent < len(c.queue) {
		it := c.queue[c.sent]
		if it.msg == nil && !it.done {
			c.decode(it)
		}
		if it.done {
			c.sent++
			continue
		}
		select {
		case c.out <- it.msg:
			c.sent++
		default:
			return it.msg
		}
	}
	return nil
}

// decode makes the message, unless the record is to be skipped.
func (c *claim) decode(it *item) {
	msg, err := c.cfg.Subscriber.Unmarshaler.Unmarshal(it.rec)
	if err != nil {
		c.cfg.Logger.Error("record cannot be decoded", "topic", it.rec.Topic,
			"partition", it.rec.Partition, "offset", it.rec.Offset, "error", err)
		if msg = c.cfg.Undecodable(it.rec, err); msg == nil {
			it.done = true
			return
		}
	}
	ctx, cancel := context.WithCancel(c.ctx)
	it.msg, it.cancel = msg, cancel
	msg.SetContext(&placed{ctx, it.rec})
}

// refused lets the head rest; then it and all after it are delivered again.
func (c *claim) refused() {
	head := c.queue[0]
	first := c.cfg.Subscriber.NackResendSleep
	wait := min(first<<min(head.tries, 7), 100*first)
	head.tries++
	c.rest = time.NewTimer(max(wait, 0)) // NoSleep is negative
}

// cancel ends the contexts of all messages, the last one first. Whoever drops a message whose context has ended, and
// then looks at a later one, must not find that alive: it would overtake. Were the contexts children of one that is
// cancelled, they would end in any order.
func (c *claim) cancel() {
	for _, it := range slices.Backward(c.queue) {
		if it.msg != nil {
			it.cancel()
		}
	}
}

// rewind takes back what is delivered and not acked.
func (c *claim) rewind() {
	c.cancel()
	for i, it := range c.queue {
		it.done = it.done || i < c.sent && it.acked()
		it.reset()
	}
	c.sent = 0
}

// drain awaits acks until every delivered message is settled or time is up.
func (c *claim) drain(limit time.Duration) {
	if c.rest != nil {
		c.rest.Stop()
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for i := range c.sent {
		it := c.queue[i]
		if it.settled() {
			continue
		}
		select {
		case <-it.msg.Acked():
		case <-it.msg.Nacked():
		case <-timer.C:
			c.cfg.Logger.Warn("partition is given up with unacked messages", "topic", it.rec.Topic,
				"partition", it.rec.Partition, "offset", it.rec.Offset, "unacked", c.sent-i)
			c.reap()
			return
		}
	}
	c.reap()
}
