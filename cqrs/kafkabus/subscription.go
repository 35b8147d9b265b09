package kafkabus

import (
	"context"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
)

// outBuffer lets a batch be read without a switch of goroutines per message. What is in it when
// partitions are taken away is taken back.
const outBuffer = 256

// A subscription is one channel of a subscriber.
type subscription struct {
	topic  string
	ctx    context.Context // of its messages
	cancel context.CancelFunc
	out    chan *message.Message

	mu      sync.Mutex
	senders int // claims that may send
	left    bool
}

func newSubscription(ctx context.Context, s *subscriber, topic string) *subscription {
	sub := &subscription{topic: topic, out: make(chan *message.Message, min(s.bus.cfg.Window, outBuffer)-1)}
	sub.ctx, sub.cancel = context.WithCancel(ctx)
	return sub
}

// enter allows the caller to send until it calls exit; false means that the subscription has ended.
func (s *subscription) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.left {
		s.senders++
	}
	return !s.left
}

// exit ends sending. The last sender of a session takes back what nobody has read, by nacks that the
// drain of the claim sees.
func (s *subscription) exit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.senders--; s.senders > 0 {
		return
	}
	if s.left {
		close(s.out)
	}
	s.takeBack()
}

// leave closes the channel as soon as nobody sends to it.
func (s *subscription) leave() {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left {
		return
	}
	if s.left = true; s.senders == 0 {
		close(s.out)
	}
}

func (s *subscription) takeBack() {
	for {
		select {
		case m, ok := <-s.out:
			if !ok {
				return
			}
			m.Nack()
		default:
			return
		}
	}
}
