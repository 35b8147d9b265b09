package kafkabus

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
)

const (
	defaultWindow     = 1024
	defaultBuffer     = 8 << 20
	defaultClientID   = "surge"
	defaultPartitions = 4
	defaultRetrySleep = time.Second
	defaultTopicWait  = 10 * time.Second
	looks             = 10 // for offsets that a group should have, ReconnectRetrySleep apart
	lostSleeps        = 10 // times ReconnectRetrySleep: each try makes the group rebalance

	sessionTimeout = 10 * time.Second
	heartbeat      = time.Second // so soon the others notice that a member comes or goes
	retryBackoff   = 250 * time.Millisecond
	joinRetries    = 8
	// An answer to joining waits for the other members' drains; other answers come soon.
	joinTimeout      = rebalanceTimeout/2 + 10*time.Second
	publishTimeout   = 15 * time.Second
	rebalanceTimeout = time.Minute
	sendRetries      = 10 // over about six seconds
	sendBackoff      = 50 * time.Millisecond
	maxSendBackoff   = time.Second
)

// Config configures a [Bus]; the zero value works on a plaintext cluster.
type Config struct {
	// ClientID names this program in the brokers' logs and quotas; "" means "surge".
	ClientID string

	// InstanceID makes subscribers static members of their groups: one that comes back under the same
	// id within the session timeout gets its partitions back without a rebalance. It must be unique
	// among the processes of a group and stable over restarts, such as a pod's ordinal. "" means off.
	InstanceID string

	// Window is how many unacked messages of one partition are handed out; 0 means 1024.
	// 1 gives Watermill's classic behavior, the next message only after the ack.
	Window int

	// Buffer is how many bytes of one partition's records may wait to be handed out before its fetching
	// pauses, which takes effect after the fetch under way; 0 means 8 MiB. Fetching goes on at half of it.
	Buffer int

	// Drain is how long acks are awaited when partitions are taken away or a subscriber is closed.
	// 0, and anything longer, means half of Consumer.Group.Rebalance.Timeout, which is 30 s unless
	// Subscriber.OverwriteSaramaConfig says otherwise. A member that takes longer is expelled, and then
	// its messages run twice at the same time.
	Drain time.Duration

	// Lost says where a group goes on whose offsets are lost; the zero value, Refuse, reads nothing and
	// logs a [LostError] until it is decided.
	Lost Lost

	// TLS switches TLS on; nil means plaintext.
	TLS *tls.Config

	// SASL authenticates; the zero value does not.
	SASL SASL

	// Topic says how topics are created by SubscribeInitialize, and fills in what [Bus.CreateTopics] is not told.
	Topic Topic

	// Undecodable makes a message of a record that Subscriber.Unmarshaler refuses, panics at, or makes nothing of; nil
	// means [MarkUndecodable]. It may return nil to skip the record. It must not block.
	Undecodable func(record *sarama.ConsumerMessage, err error) *message.Message

	// Publisher configures publishing as watermill-kafka's type does: Marshaler (nil means [Marshaler]),
	// OverwriteSaramaConfig, OTELEnabled and Tracer. Brokers is ignored.
	Publisher kafka.PublisherConfig

	// Subscriber configures subscribing as watermill-kafka's type does: Unmarshaler (nil means [Marshaler]),
	// OverwriteSaramaConfig, Tracer, NackResendSleep (first wait; it doubles up to 100 times as long;
	// 0 means 10 ms), ReconnectRetrySleep (0 means 1 s; at least 20 ms, also for watermill-kafka's NoSleep) and
	// WaitForTopicCreationTimeout (0 means 10 s). Its other fields are ignored.
	Subscriber kafka.SubscriberConfig

	// Logger receives what happens to groups and connections; nil discards.
	Logger *slog.Logger
}

// Topic says how a topic is made.
type Topic struct {
	Name        string            // ignored in Config.Topic
	Partitions  int32             // 0 means 4. It never changes later: keys would move
	Replication int16             // 0 means the cluster's default
	MinInSync   int               // min.insync.replicas; 0 means the cluster's default. 2 of 3 survives a broker
	Retention   time.Duration     // retention.ms; 0 means the cluster's default, negative for ever, else at least 1 ms
	Entries     map[string]string // further configuration, such as cleanup.policy
}

func (c Config) withDefaults() Config {
	if c.ClientID == "" {
		c.ClientID = defaultClientID
	}
	if c.Window == 0 {
		c.Window = defaultWindow
	}
	if c.Buffer == 0 {
		c.Buffer = defaultBuffer
	}
	if c.Undecodable == nil {
		c.Undecodable = MarkUndecodable
	}
	if c.Publisher.Marshaler == nil {
		c.Publisher.Marshaler = Marshaler{}
	}
	if c.Subscriber.Unmarshaler == nil {
		c.Subscriber.Unmarshaler = Marshaler{}
	}
	orElse(&c.Subscriber.NackResendSleep, 10*time.Millisecond)
	orElse(&c.Subscriber.ReconnectRetrySleep, defaultRetrySleep)
	c.Subscriber.ReconnectRetrySleep = max(c.Subscriber.ReconnectRetrySleep, settle)
	orElse(&c.Subscriber.WaitForTopicCreationTimeout, defaultTopicWait)
	if c.Publisher.OTELEnabled && c.Publisher.Tracer == nil {
		c.Publisher.Tracer = kafka.NewOTELSaramaTracer()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func orElse(d *time.Duration, otherwise time.Duration) {
	if *d == 0 {
		*d = otherwise
	}
}

// Validate joins every fault of the configuration.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf("kafkabus: "+format, args...)) }
	if c.Window < 0 {
		fault("Config.Window is %d, must not be negative", c.Window)
	}
	if c.Buffer < 0 {
		fault("Config.Buffer is %d, must not be negative", c.Buffer)
	}
	if c.Drain < 0 {
		fault("Config.Drain is %v, must not be negative", c.Drain)
	}
	if c.Lost < Refuse || c.Lost > FromNewest {
		fault("Config.Lost is %d, must be Refuse, FromOldest or FromNewest", c.Lost)
	}
	if err := c.Topic.validate("Config.Topic"); err != nil {
		fault("%w", err)
	}
	if c.Subscriber.WaitForTopicCreationTimeout < 0 {
		fault("Config.Subscriber.WaitForTopicCreationTimeout is %v, must not be negative",
			c.Subscriber.WaitForTopicCreationTimeout)
	}
	if o := c.Publisher.OverwriteSaramaConfig; o != nil && o.Producer.Transaction.ID != "" {
		fault("Config.Publisher.OverwriteSaramaConfig has the transactional id %q; publishing is not transactional",
			o.Producer.Transaction.ID)
	}
	if o := c.Subscriber.OverwriteSaramaConfig; o != nil {
		rebalance := o.Consumer.Group.Rebalance
		for _, s := range append(slices.Clone(rebalance.GroupStrategies), rebalance.Strategy) {
			if p, ok := s.(sarama.RebalanceProtocolBalanceStrategy); ok &&
				slices.Contains(p.SupportedProtocols(), sarama.RebalanceProtocolCooperative) {
				fault("Config.Subscriber.OverwriteSaramaConfig has the cooperative balance strategy %q; where partitions "+
					"begin is decided when a session begins, which it does not end", s.Name())
			}
		}
	}
	if err := c.SASL.validate(); err != nil {
		return errors.Join(append(faults, err)...)
	}
	for _, s := range []*sarama.Config{c.consumer(), c.producer()} {
		if err := s.Validate(); err != nil {
			fault("%w", err)
		}
	}
	return errors.Join(faults...)
}

// common is what producers and consumers share, on top of what the user brings.
func (c Config) common(overwrite *sarama.Config) *sarama.Config {
	s := sarama.NewConfig()
	if overwrite != nil {
		*s = *overwrite
	} else {
		s.Version = sarama.V2_8_0_0
		s.ClientID = c.ClientID
	}
	if c.TLS != nil {
		s.Net.TLS.Enable, s.Net.TLS.Config = true, c.TLS
	}
	c.SASL.apply(s)
	return s
}

// producer enforces what the guarantees need: every in-sync replica has the message, and a retry
// neither doubles nor reorders it.
func (c Config) producer() *sarama.Config {
	s := c.common(c.Publisher.OverwriteSaramaConfig)
	if c.Publisher.OverwriteSaramaConfig == nil {
		s.Net.ReadTimeout = publishTimeout
		s.Producer.Retry.Max = sendRetries
		s.Producer.Retry.BackoffFunc = sarama.NewExponentialBackoff(sendBackoff, maxSendBackoff)
		s.Producer.Partitioner = NewPartitioner
	}
	s.Producer.RequiredAcks = sarama.WaitForAll
	s.Producer.Idempotent = true
	s.Net.MaxOpenRequests = 1
	s.Producer.Return.Successes = true
	s.Producer.Return.Errors = true
	return s
}

// consumer enforces that only marks are committed, now and then; a commit per message would wait
// behind the fetches.
func (c Config) consumer() *sarama.Config {
	s := c.common(c.Subscriber.OverwriteSaramaConfig)
	if c.Subscriber.OverwriteSaramaConfig == nil {
		s.Consumer.Offsets.Initial = sarama.OffsetOldest
		s.Net.ReadTimeout = joinTimeout
		s.Consumer.Retry.Backoff = retryBackoff
		s.Consumer.Group.Session.Timeout = sessionTimeout
		s.Consumer.Group.Heartbeat.Interval = heartbeat
		s.Consumer.Group.Rebalance.Retry.Max = joinRetries
		s.Consumer.Group.Rebalance.Retry.Backoff = retryBackoff
		s.Consumer.Group.Rebalance.Timeout = rebalanceTimeout
		s.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategySticky()}
	}
	s.Consumer.Group.Rebalance.GroupStrategies = fresh(s.Consumer.Group.Rebalance.GroupStrategies)
	s.Metadata.AllowAutoTopicCreation = false // asking for a topic must not make it, past Config.Topic
	s.Consumer.Offsets.AutoCommit.Enable = true
	s.Consumer.Group.ResetInvalidOffsets = false // see LostError
	s.Consumer.Return.Errors = true
	s.Consumer.MaxProcessingTime = max(s.Consumer.MaxProcessingTime, time.Minute) // see claim.in
	if c.InstanceID != "" {
		s.Consumer.Group.InstanceId = c.InstanceID
	}
	return s
}

// fresh replaces sticky strategies by new ones: they keep state, so members must not share one.
func fresh(strategies []sarama.BalanceStrategy) []sarama.BalanceStrategy {
	own := make([]sarama.BalanceStrategy, len(strategies))
	for i, s := range strategies {
		if own[i] = s; s != nil && s.Name() == sarama.StickyBalanceStrategyName {
			own[i] = sarama.NewBalanceStrategySticky()
		}
	}
	return own
}

// drain is the time that is left for acks when a session ends.
func (c Config) drain(s *sarama.Config) time.Duration {
	half := s.Consumer.Group.Rebalance.Timeout / 2
	if c.Drain > 0 {
		return min(c.Drain, half)
	}
	return half
}
