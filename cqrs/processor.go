package cqrs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// ProcessorConfig configures a [Processor]. The zero value works: Execute without a transaction.
type ProcessorConfig struct {
	// Subscribe makes the subscriber of a group. Ours deliver many unacknowledged messages; with any other the
	// processor works too, one message at a time. Run closes what it returns. nil: no intake but by
	// [Processor.NoPublishHandler].
	Subscribe     func(group string) (message.Subscriber, error)
	UnitOfWork    UnitOfWork                     // nil: handlers run without a transaction
	InTransaction func(ctx context.Context) bool // uow.In; nil: only transactions of this package are noticed
	Inbox         Inbox                          // nil: handlers see redeliveries
	Keys          Keys                           // nil: Execute runs every time
	Parking       Parking                        // nil: a failed message is retried from memory, unacknowledged
	DeadLetters   DeadLetters                    // nil: a failing message holds up its key for ever
	Crashes       Crashes                        // nil: a message that kills the process does so for ever
	Locker        Locker                         // for [Locks]; nil: within this process, until the commit

	Observer Observer // is told of batches, handlers and executions; nil costs nothing

	Behaviors []Behavior    // outermost first
	Lanes     int           // concurrent transactions, at most 1,000; 0 means 8
	MaxBatch  int           // messages per transaction, at most 10,000; 0 means 64, 1 turns sharing off
	Linger    time.Duration // how long a batch of two or more waits for others; 0 means not at all
	Retry     Retry         // of messages; not of Execute

	// HandlerTimeout bounds the context of a handler: of one message, or of one call of a batch handler; [Timeout]
	// is for one handler. One that has not returned a quarter later (at most 5 s) is left behind: its transaction is
	// closed to it, its message has failed with [ErrHung], and its key waits until it returns, in this process; the
	// lane goes on. The messages of a batch handler that is left behind do not wait for it: they run one by one, to
	// find the one that it hangs on. HandlerTimeout should be shorter than half of what the unit of work allows
	// (PartTimeout of package uow), or that ends the whole batch first. In [Execute] it bounds the context alone, and
	// without a unit of work not even that: the caller does.
	// 0 means 10 s, negative none.
	HandlerTimeout time.Duration
	// Grace bounds how long Run goes on after its context has ended: for half of it handlers of messages that were
	// taken in are begun, for all of it they are waited for; the rest is given back to the bus. 0 means 10 s,
	// negative as long as it takes.
	Grace time.Duration
	// MaxAge turns older messages into dead letters instead of running them. It must be shorter than what the
	// inbox remembers, or a message that comes again after that runs twice. 0 means nine tenths of what the inbox
	// remembers if it says so, else no limit; negative means no limit.
	MaxAge time.Duration
	// Retention tells how long a topic keeps its messages, negative for ever: *kafkabus.Bus has such a method. Run
	// refuses to start with [ErrHorizon] if that is as long as the inbox remembers them, or longer. nil asks the
	// subscriber, if it has such a method.
	Retention func(ctx context.Context, topic string) (time.Duration, error)
	// KeptLonger names topics that may keep messages for longer: what is older than MaxAge becomes dead letters.
	KeptLonger []string
	// Poll is how often parked messages are looked for that another process has parked; 0 means 1 s.
	Poll time.Duration
	// ReplyTopics says where replies may go; nil allows names with a part "replies", as in "orders.replies".
	ReplyTopics func(topic string) bool
	// Instance names this process in the topic that [Call] receives replies on; it must be its own. "" means host name
	// and process ID. The first call creates the topic, if the subscriber is a message.SubscribeInitializer; nobody
	// deletes it, or the group that read it: give instances names that they keep where processes come and go.
	Instance string
	Logger   *slog.Logger // nil discards
}

// Retry says how often a message is tried again, and when. The zero value means 5 tries, 100 ms to 1 min.
type Retry struct {
	Attempts int           // runs in all, before the message becomes a dead letter; 0 means 5
	Min      time.Duration // the first delay, doubled with every failure; 0 means 100 ms
	Max      time.Duration // the longest delay; 0 means 1 min
}

// Locker takes locks that last until the end of the transaction in ctx. It is called inside the unit of work.
type Locker interface {
	// Lock takes the locks, which are sorted and distinct, in this order.
	Lock(ctx context.Context, names []string) error
}

// A Behavior wraps every handler: authorization, auditing. It calls next once and waits for it, or returns an error
// instead; if it does neither, the message has failed.
// A batch handler cannot be wrapped message by message: before it runs, behaviors see each message with a next
// that does nothing, and one that returns an error keeps that message out.
type Behavior func(ctx context.Context, d *Delivery, next func(context.Context) error) error

func (c ProcessorConfig) withDefaults() ProcessorConfig {
	c.Lanes = orInt(c.Lanes, 8)
	c.MaxBatch = orInt(c.MaxBatch, 64)
	c.Retry = c.Retry.withDefaults()
	c.HandlerTimeout = orDuration(c.HandlerTimeout, 10*time.Second)
	c.Grace = orDuration(c.Grace, 10*time.Second)
	c.Poll = orDuration(c.Poll, time.Second)
	c.MaxAge = orDuration(c.MaxAge, c.inboxKeeps()/10*9)
	if c.ReplyTopics == nil {
		c.ReplyTopics = isReplyTopic
	}
	if c.Instance == "" {
		host, _ := os.Hostname() // an empty name still has the process ID
		c.Instance = fmt.Sprintf("%s-%d", host, os.Getpid())
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (r Retry) withDefaults() Retry {
	return Retry{
		Attempts: orInt(r.Attempts, 5),
		Min:      orDuration(r.Min, 100*time.Millisecond),
		Max:      orDuration(r.Max, max(r.Min, time.Minute)),
	}
}

func orInt(v, def int) int {
	if v == 0 {
		return def
	}
	return v
}

func orDuration(v, def time.Duration) time.Duration {
	if v == 0 {
		return def
	}
	return v
}

func isReplyTopic(topic string) bool {
	for part := range strings.SplitSeq(topic, ".") {
		if part == "replies" {
			return true
		}
	}
	return false
}

// What is given to lanes takes memory for Lanes times MaxBatch messages at once.
const (
	maxLanes = 1_000
	maxBatch = 10_000
)

// Validate joins every fault.
func (c ProcessorConfig) Validate() error {
	var faults []error
	bad := func(wrong bool, format string, a ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf("cqrs: ProcessorConfig."+format, a...))
		}
	}
	bad(c.Lanes < 0 || c.Lanes > maxLanes, "Lanes is %d; 1 to %d, or 0 for the default", c.Lanes, maxLanes)
	bad(c.MaxBatch < 0 || c.MaxBatch > maxBatch, "MaxBatch is %d; 1 to %d, or 0 for the default", c.MaxBatch, maxBatch)
	bad(c.Linger < 0, "Linger is %s; at least 0", c.Linger)
	bad(c.Poll < 0, "Poll is %s; more than 0, or 0 for the default", c.Poll)
	keeps := c.inboxKeeps()
	bad(keeps > 0 && c.MaxAge >= keeps, "MaxAge is %s; less than what the inbox remembers, %s", c.MaxAge, keeps)
	bad(c.Retry.Attempts < 0, "Retry.Attempts is %d; at least 1, or 0 for the default", c.Retry.Attempts)
	bad(c.Retry.Min < 0, "Retry.Min is %s; at least 0", c.Retry.Min)
	bad(c.Retry.Max < 0, "Retry.Max is %s; at least 0", c.Retry.Max)
	bad(c.Retry.Max > 0 && c.Retry.Max < c.Retry.Min, "Retry.Max is %s; at least Min, %s", c.Retry.Max, c.Retry.Min)
	if c.UnitOfWork == nil {
		bad(c.Inbox != nil, "Inbox needs UnitOfWork")
		bad(c.Parking != nil, "Parking needs UnitOfWork")
		bad(c.DeadLetters != nil, "DeadLetters needs UnitOfWork")
		bad(c.Locker != nil, "Locker needs UnitOfWork")
		bad(c.Crashes != nil, "Crashes needs UnitOfWork")
	}
	bad(c.Crashes != nil && c.DeadLetters == nil, "Crashes needs DeadLetters, where the message goes")
	return errors.Join(faults...)
}

// A Processor is a consumer group and its handlers. Messages of one topic and key run in order,
// and many run in one transaction. It is safe for concurrent use.
type Processor struct {
	group  string
	sender *Sender
	cfg    ProcessorConfig
	log    *slog.Logger

	mu        sync.Mutex
	types     map[reflect.Type][]*handler
	consumers []consumer
	memories  []memory
	faults    []error

	requests atomic.Pointer[map[reflect.Type]*handler] // copied on write, read by every Execute
	current  atomic.Pointer[runner]                    // nil unless Run runs
	started  atomic.Bool
	ready    chan struct{}
	once     sync.Once // closes ready
	locks    keyLocks
	calls    calls
	gates    gates
	hung     hung
	stats    counters
}

// maxGroup is what the stores take as a group's name.
const maxGroup = 120

// NewProcessor makes a processor whose replies go out through s, whose catalog it uses. The group is the consumer
// group of its subscriptions, and tells its rows apart in the stores; it has at most 120 bytes.
func NewProcessor(group string, s *Sender, cfg ProcessorConfig) (*Processor, error) {
	if group == "" || s == nil {
		return nil, errors.New("cqrs: NewProcessor needs a group and a sender")
	}
	if len(group) > maxGroup {
		return nil, fmt.Errorf("cqrs: the name of a group has at most %d bytes, %q has %d", maxGroup, group, len(group))
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p := &Processor{
		group: group, sender: s, cfg: cfg.withDefaults(),
		types: map[reflect.Type][]*handler{}, ready: make(chan struct{}),
	}
	p.log = p.cfg.Logger.With("group", group)
	p.requests.Store(&map[reflect.Type]*handler{})
	return p, nil
}

// Running returns a channel that is closed once Run has subscribed for the first time: from then on messages are
// taken in, and [Call] works.
func (p *Processor) Running() <-chan struct{} { return p.ready }

// Group returns the consumer group's name.
func (p *Processor) Group() string { return p.group }

// Sender returns the sender given to [NewProcessor].
func (p *Processor) Sender() *Sender { return p.sender }

// Catalog returns the sender's catalog.
func (p *Processor) Catalog() *Catalog { return p.sender.catalog }

// UnitOfWork returns the configured unit of work, nil if there is none.
func (p *Processor) UnitOfWork() UnitOfWork { return p.cfg.UnitOfWork }

// ReplyTopic is the topic on which the whole group receives replies, for engines that keep their requests in a
// database. It is read by a consumer registered with [FromTopic].
func (p *Processor) ReplyTopic() string { return p.group + ".replies" }

// InTransaction reports whether ctx is inside a unit of work, as far as this processor can tell.
func (p *Processor) InTransaction(ctx context.Context) bool {
	if s := scopeOf(ctx); s != nil && s.inTx {
		return true
	}
	return p.cfg.InTransaction != nil && p.cfg.InTransaction(ctx)
}

// do runs fn in the unit of work, if there is one.
func (p *Processor) do(ctx context.Context, fn func(context.Context) error) error {
	if p.cfg.UnitOfWork == nil {
		return fn(ctx)
	}
	return p.cfg.UnitOfWork.Do(ctx, fn)
}

// Validate joins every fault of registration: two handlers for a command, a type that is not in the catalog.
func (p *Processor) Validate() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.faults...)
}
