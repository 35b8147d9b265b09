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
	group      sarama.ConsumerGroup
	drain      time.Duration
}

// Setup moves the session to where its partitions begin. That is committed also where nothing is read: from
// then on a group without offsets is one that has lost them.
func (h *handler) Setup(s sarama.ConsumerGroupSession) error {
	admin, err := sarama.NewClusterAdminFromClient(h.client) // not closed, that would close the client
	if err != nil {
		return err
	}
	begin, err := h.subscriber.offsets(s.Context(), h.client, admin, s.Claims())
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
	if sub == nil || !sub.enter() { // the topics have just changed
		for range in.Messages() { // see claim.in
		}
		return nil
	}
	ctx, cancel := context.WithCancel(sub.ctx)
	defer cancel()
	defer context.AfterFunc(sess.Context(), cancel)()
	c := &claim{
		cfg: &h.subscriber.bus.cfg, sess: sess, in: in.Messages(), out: sub.out,
		ctx: context.WithoutCancel(ctx), done: ctx.Done(),
		place: map[string][]int32{in.Topic(): {in.Partition()}}, flow: h.group,
	}
	c.flow.Resume(c.place) // sarama keeps what was paused in an earlier session
	for c.serve() {
	}
	c.cancel()
	sub.exit()
	c.drain(h.drain)
	return nil
}

// A flow stops and restarts the fetching of partitions. A sarama.ConsumerGroup is one.
type flow interface {
	Pause(partitions map[string][]int32)
	Resume(partitions map[string][]int32)
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

// size is about how much memory a record takes.
func (it *item) size() int { return len(it.rec.Key) + len(it.rec.Value) + overhead }

const overhead = 512 // headers and what is kept about a record

// A claim is one partition in one session. It walks the oldest unacked record, so what it marks is
// never past a record that was received and not acked, whatever gaps the offsets have.
type claim struct {
	cfg  *Config
	sess sarama.ConsumerGroupSession
	// in is read at all times. Where nobody reads a partition for a while, sarama holds up the others of its broker, then
	// gives the partition up and asks for it again; if the session ends in that moment, sarama panics (its feeder sends to
	// a closed channel; seen with 1.48.2).
	in   <-chan *sarama.ConsumerMessage
	out  chan<- *message.Message
	ctx  context.Context // of the messages, which are ended one by one; see cancel
	done <-chan struct{} // session or subscription have ended

	queue   []*item // received, not acked; oldest first
	sent    int     // the first so many are delivered
	waiting int     // bytes of the others
	place   map[string][]int32
	flow    flow
	paused  bool
	rest    *time.Timer // runs while the head, which was nacked, rests
}

// serve does the next thing; false means that the session is over.
func (c *claim) serve() bool {
	c.reap()
	var (
		out           chan<- *message.Message
		next          *message.Message
		acked, nacked <-chan struct{}
		rested        <-chan time.Time
	)
	switch {
	case c.rest != nil:
		rested = c.rest.C
	default:
		if next = c.fill(); next != nil {
			out = c.out
		}
		if c.sent > 0 {
			if c.queue[0].done {
				return true
			}
			acked, nacked = c.queue[0].msg.Acked(), c.queue[0].msg.Nacked()
		}
	}
	c.regulate()
	select {
	case <-c.done:
		return false
	case rec, ok := <-c.in:
		return c.receive(rec, ok)
	case out <- next:
		c.deliver()
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
		it := &item{rec: rec}
		c.queue = append(c.queue, it)
		if c.waiting += it.size(); c.waiting > c.cfg.Buffer {
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

// regulate has the partition fetched as long as not too much is waiting.
func (c *claim) regulate() {
	switch {
	case !c.paused && c.waiting > c.cfg.Buffer:
		c.paused = true
		c.flow.Pause(c.place)
	case c.paused && c.waiting <= c.cfg.Buffer/2:
		c.paused = false
		c.flow.Resume(c.place)
	}
}

// deliver notes that the next message is delivered, or needs no delivery.
func (c *claim) deliver() {
	c.waiting -= c.queue[c.sent].size()
	c.sent++
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
		clear(c.queue[:n])
		c.queue = c.queue[n:]
		c.sent -= n
	}
}

// fill delivers without waiting and returns the first message that has to wait.
func (c *claim) fill() *message.Message {
	for c.sent < min(len(c.queue), c.cfg.Window) {
		it := c.queue[c.sent]
		if it.msg == nil && !it.done {
			c.decode(it)
		}
		if it.done {
			c.deliver()
			continue
		}
		select {
		case c.out <- it.msg:
			c.deliver()
		default:
			return it.msg
		}
	}
	return nil
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
// canceled, they would end in any order.
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
		if i < c.sent {
			it.done = it.done || it.acked()
			c.waiting += it.size()
		}
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
