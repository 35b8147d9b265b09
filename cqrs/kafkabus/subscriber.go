package kafkabus

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
)

// settle is how long a member waits for further Subscribe calls before it joins with a set of topics,
// because every change of the set stops the whole group for a moment.
const settle = 20 * time.Millisecond

// A subscriber is one member of a group.
type subscriber struct {
	bus   *Bus
	group string
	ended chan struct{} // closed when run has returned; nil until it was started

	position func(ctx context.Context, topic string, partition int32) (offset int64, ok bool, err error)

	mu      sync.Mutex
	handled bool                       // messages, by the group, before; also when it had offsets
	subs    map[string][]*subscription // by topic
	changed chan struct{}              // closed and replaced when subs or closed change
	closed  bool
}

func newSubscriber(
	b *Bus, group string, position func(context.Context, string, int32) (int64, bool, error),
) *subscriber {
	return &subscriber{
		bus: b, group: group, position: position,
		subs: make(map[string][]*subscription), changed: make(chan struct{}),
	}
}

// Subscribe starts reading topic, from the group's committed offset, else by default from the oldest
// record. A topic that does not exist is read once it does. The channel hands out message after message,
// up to the window of each partition, without waiting for acks; it is closed when ctx ends or the
// subscriber is closed. Subscribing while the member reads already makes the group rebalance.
func (s *subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	sub := newSubscription(ctx, s, topic)
	s.subs[topic] = append(slices.Clip(s.subs[topic]), sub)
	s.announce()
	if s.ended == nil {
		s.ended = make(chan struct{})
		go s.run()
	}
	context.AfterFunc(sub.ctx, func() { s.drop(sub) })
	return sub.out, nil
}

// SubscribeInitialize creates topic, see [Bus.CreateTopics].
func (s *subscriber) SubscribeInitialize(topic string) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.bus.cfg.Subscriber.WaitForTopicCreationTimeout)
	defer cancel()
	return s.bus.CreateTopics(ctx, Topic{Name: topic})
}

// Lag is [Bus.Lag] of the topics that are subscribed to; that of a topic that does not exist yet is 0.
func (s *subscriber) Lag(ctx context.Context) (map[string]int64, error) {
	topics, _ := s.topics()
	return s.bus.lag(ctx, s.group, topics, func(c sarama.Client) []string { return existing(c, topics) })
}

// Check is described at [Bus.Subscriber].
func (s *subscriber) Check(ctx context.Context, handled bool, topics ...string) error {
	s.mu.Lock()
	s.handled = handled
	s.mu.Unlock()
	for n := 1; ; n++ {
		err := s.look(ctx, topics)
		if lost := new(LostError); !errors.As(err, &lost) || lost.Offset >= 0 || n == looks {
			return err
		}
		// A broker that has just taken the group over may know of no offsets for a moment.
		select {
		case <-ctx.Done():
			return err
		case <-time.After(s.bus.cfg.Subscriber.ReconnectRetrySleep):
		}
	}
}

// look reports whether the group can go on where it was.
func (s *subscriber) look(ctx context.Context, topics []string) error {
	return s.bus.admin(ctx, func(client sarama.Client, admin sarama.ClusterAdmin) error {
		partitions, err := partitionsOf(client, existing(client, topics)) // the others are new once they are there
		if err != nil {
			return err
		}
		_, err = s.offsets(ctx, client, admin, partitions)
		return err
	})
}

// Retention is [Bus.Retention].
func (s *subscriber) Retention(ctx context.Context, topic string) (time.Duration, error) {
	return s.bus.Retention(ctx, topic)
}

// offsets returns where the partitions begin. A group that has offsets is from then on one that can lose them.
func (s *subscriber) offsets(
	ctx context.Context, client sarama.Client, admin sarama.ClusterAdmin, partitions map[string][]int32,
) (map[string]map[int32]int64, error) {
	s.mu.Lock()
	start := &start{
		group: s.group, position: s.position, lost: s.bus.cfg.Lost, handled: s.handled,
		initial: client.Config().Consumer.Offsets.Initial,
	}
	s.mu.Unlock()
	begin, err := start.offsets(ctx, admin, partitions)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handled = s.handled || start.handled
	return begin, err
}

// Close stops intake, waits up to Config.Drain for acks, commits, leaves the group and closes the channels. Brokers
// that do not answer hold it up no longer than one of them may take to answer (40 s unless the configuration says
// otherwise): then it returns [ErrUnanswered] and leaves the member behind.
func (s *subscriber) Close() error {
	s.mu.Lock()
	s.closed = true
	var subs []*subscription
	for _, t := range s.subs {
		subs = append(subs, t...)
	}
	s.announce()
	ended := s.ended
	s.mu.Unlock()
	for _, sub := range subs {
		s.drop(sub)
	}
	defer s.bus.disown(s)
	if ended == nil {
		return nil
	}
	c := s.bus.cfg.consumer()
	limit := time.NewTimer(s.bus.cfg.drain(c) + c.Net.ReadTimeout)
	defer limit.Stop()
	select {
	case <-ended:
		return nil
	case <-limit.C: // sarama cannot be called back from a broker: it tries each several times
		return ErrUnanswered
	}
}

// drop ends a subscription.
func (s *subscriber) drop(sub *subscription) {
	s.mu.Lock()
	rest := slices.DeleteFunc(slices.Clone(s.subs[sub.topic]), func(o *subscription) bool { return o == sub })
	if s.subs[sub.topic] = rest; len(rest) == 0 {
		delete(s.subs, sub.topic)
	}
	s.announce()
	s.mu.Unlock()
	sub.leave()
}

// announce tells run of a change; the caller holds mu.
func (s *subscriber) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// topics returns what is subscribed to, sorted, and the channel that is closed when that changes.
func (s *subscriber) topics() ([]string, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	topics := make([]string, 0, len(s.subs))
	for t := range s.subs {
		topics = append(topics, t)
	}
	slices.Sort(topics)
	return topics, s.changed
}

// subscriptionOf spreads the partitions of a topic over its subscriptions.
func (s *subscriber) subscriptionOf(topic string, partition int32) *subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	subs := s.subs[topic]
	if len(subs) == 0 {
		return nil
	}
	return subs[int(partition)%len(subs)]
}

func (s *subscriber) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// run keeps the member in its group while it has topics to read.
func (s *subscriber) run() {
	defer close(s.ended)
	for {
		topics, changed := s.topics()
		if s.isClosed() { // after changed was taken, or a Close in between would not be heard of
			return
		}
		if len(topics) == 0 {
			<-changed
			continue
		}
		if err := s.member(); err != nil && !s.isClosed() {
			s.bus.cfg.Logger.Error("consumer group failed, it is tried again", "group", s.group, "error", err)
			pause := s.bus.cfg.Subscriber.ReconnectRetrySleep
			if lost := new(LostError); errors.As(err, &lost) {
				pause *= lostSleeps
			}
			s.sleep(pause)
		}
	}
}

// sleep waits, but not when the subscriber is closed.
func (s *subscriber) sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		_, changed := s.topics()
		if s.isClosed() {
			return
		}
		select {
		case <-timer.C:
			return
		case <-changed:
		}
	}
}

// member connects, joins and stays until the subscriber has nothing to read or something fails.
func (s *subscriber) member() (err error) {
	client, err := sarama.NewClient(s.bus.brokers, s.bus.cfg.consumer())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	group, err := sarama.NewConsumerGroupFromClient(s.group, client)
	if err != nil {
		return err
	}
	var logging sync.WaitGroup
	logging.Go(func() {
		for err := range group.Errors() {
			s.bus.cfg.Logger.Warn("consumer group reports", "group", s.group, "error", err)
		}
	})
	defer func() {
		err = errors.Join(err, group.Close())
		logging.Wait()
	}()
	for {
		topics, changed := s.settled()
		if len(topics) == 0 {
			return nil
		}
		if err := s.session(client, group, topics, changed); err != nil {
			return err
		}
	}
}

// settled returns the topics once they have not changed for a moment.
func (s *subscriber) settled() ([]string, <-chan struct{}) {
	for {
		topics, changed := s.topics()
		if len(topics) == 0 {
			return nil, changed
		}
		timer := time.NewTimer(settle)
		select {
		case <-timer.C:
			return topics, changed
		case <-changed:
			timer.Stop()
		}
	}
}

// session consumes until the topics change or the group rebalances.
func (s *subscriber) session(
	client sarama.Client, group sarama.ConsumerGroup, topics []string, changed <-chan struct{},
) error {
	var there, missing []string
	for _, t := range topics {
		if client.RefreshMetadata(t) == nil {
			there = append(there, t)
		} else {
			missing = append(missing, t)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var watch sync.WaitGroup
	watch.Go(func() {
		defer cancel()
		s.watch(ctx, client, missing, changed)
	})
	defer watch.Wait()
	defer cancel()
	if len(there) == 0 {
		<-ctx.Done()
		return nil
	}
	drain := s.bus.cfg.drain(client.Config())
	var handler sarama.ConsumerGroupHandler = &handler{subscriber: s, client: client, group: group, drain: drain}
	if t := s.bus.cfg.Subscriber.Tracer; t != nil {
		handler = t.WrapConsumerGroupHandler(handler)
	}
	err := group.Consume(ctx, there, handler)
	if errors.Is(err, context.Canceled) || errors.Is(err, sarama.ErrClosedConsumerGroup) {
		return nil
	}
	return err
}

// watch returns when the session has to end: what is subscribed to has changed, or a topic that was
// missing is there. Until then the others are read in peace.
func (s *subscriber) watch(ctx context.Context, client sarama.Client, missing []string, changed <-chan struct{}) {
	var look <-chan time.Time
	if len(missing) > 0 {
		s.bus.cfg.Logger.Warn("topics do not exist", "group", s.group, "topics", missing)
		ticker := time.NewTicker(s.bus.cfg.Subscriber.ReconnectRetrySleep)
		defer ticker.Stop()
		look = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			return
		case <-look:
			if slices.ContainsFunc(missing, func(t string) bool { return client.RefreshMetadata(t) == nil }) {
				return
			}
		}
	}
}
