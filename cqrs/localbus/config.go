package localbus

import (
	"context"
	"log/slog"
	"time"
)

const (
	defaultPartitions = 64
	defaultWindow     = 1024
	defaultWait       = 30 * time.Second
	defaultAttempts   = 16
	defaultDrain      = 250 * time.Millisecond

	minBackoff = time.Millisecond
	maxBackoff = 100 * time.Millisecond

	// outBuffer bounds a subscription's channel: enough that a batch is read without a switch of
	// goroutines per message, few enough that what a leaving subscriber has not read is cheap to take back.
	outBuffer = 256
)

// Config configures a [Bus]. The zero value works; zero and negative numbers mean the default
// unless a field says otherwise.
type Config struct {
	// Groups names consumer groups whose topics are not known yet. While one of them has neither been
	// declared with topics ([Bus.Declare]) nor subscribed to anything, every Publish waits for it.
	// Prefer Declare: it names the topics, so nothing is published between a group's first
	// subscription and its second.
	Groups []string

	// Discard drops messages of topics that no group reads. Without it publishing them is [ErrNoReader].
	Discard bool

	// Partitions is how many queues a topic has for each group; 0 means 64. Messages of one key share one.
	Partitions int

	// Window is how many unacked messages of one partition a group is given; 0 means 1024.
	// 1 gives Watermill's classic behavior, the next message only after the ack.
	Window int

	// Wait bounds how long Publish waits while a group that reads the topic has no subscriber;
	// 0 means 30 s. The context of the first message may end the wait earlier.
	Wait time.Duration

	// Attempts is how often a message is delivered to a group that nacks it before Publish returns
	// [ErrNacked]; 0 means 16. Redeliveries wait 1 ms, doubling up to 100 ms: about a second altogether.
	Attempts int

	// Drain is how long the acks of a subscriber that left are still awaited before its unacked messages
	// go to the group's next subscriber; 0 means 250 ms, a negative value none.
	Drain time.Duration

	// InTransaction reports whether ctx carries an open transaction; Publish refuses such messages with
	// [ErrInTransaction], because it would hold the transaction until other services have committed.
	// Pass uow.In. Nil means that it cannot be told and nothing is refused.
	InTransaction func(ctx context.Context) bool

	// Logger receives one line per message that is given up and per group that is awaited; nil discards.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	positive(&c.Partitions, defaultPartitions)
	positive(&c.Window, defaultWindow)
	positive(&c.Attempts, defaultAttempts)
	positive(&c.Wait, defaultWait)
	switch {
	case c.Drain == 0:
		c.Drain = defaultDrain
	case c.Drain < 0:
		c.Drain = 0
	}
	if c.InTransaction == nil {
		c.InTransaction = func(context.Context) bool { return false }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func positive[N int | time.Duration](n *N, otherwise N) {
	if *n <= 0 {
		*n = otherwise
	}
}
