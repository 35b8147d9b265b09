package saga

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// EngineConfig configures an [Engine]; the zero value works.
type EngineConfig struct {
	// TimeoutBatch is how many due instances one transaction takes; 0 means 256.
	TimeoutBatch int
	// Poll is how often due instances are looked for, so how late a timeout may be; 0 means 500 ms.
	Poll time.Duration
	// MaxReplyAge holds timers back while the replies that come in are older than this, and for so long after Run has
	// begun: what looks like silence then only waits in line. Who replies is believed what time it is, so all clocks
	// must agree better than that. 0 means 5 s, negative never holds them back.
	MaxReplyAge time.Duration
	// MaxReplyLag holds timers back while more replies than this wait, as far as the processor can tell.
	// 0 means 1,000, negative never.
	MaxReplyLag int64
	// MaxStash is how many messages are kept for an instance that cannot take them yet; more fail. 0 means 1,000.
	MaxStash int
	// Early is how long a signal or a request to cancel is kept for a saga that is not started; after it, it becomes
	// a dead letter. 0 means 1 h.
	Early time.Duration
	// Keep is how long instances that have ended stay, with their journals. It must be longer than the retention of
	// the topics, or the processor does not start (cqrs.ErrHorizon): until then a late message finds them. 0 means 30
	// days, negative for ever.
	Keep time.Duration
	// DeadLetters takes early signals that nobody wanted; nil logs and drops them.
	DeadLetters cqrs.DeadLetters
	Logger      *slog.Logger // nil discards
}

func (c EngineConfig) withDefaults() EngineConfig {
	c.TimeoutBatch = or(c.TimeoutBatch, 256)
	c.Poll = or(c.Poll, 500*time.Millisecond)
	c.MaxReplyAge = or(c.MaxReplyAge, 5*time.Second)
	c.MaxReplyLag = or(c.MaxReplyLag, 1000)
	c.MaxStash = or(c.MaxStash, 1000)
	c.Early = or(c.Early, time.Hour)
	c.Keep = or(c.Keep, 30*24*time.Hour)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func or[T int | int64 | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// Validate joins every fault.
func (c EngineConfig) Validate() error {
	var faults []error
	bad := func(wrong bool, format string, a ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf("saga: EngineConfig."+format, a...))
		}
	}
	bad(c.TimeoutBatch < 0, "TimeoutBatch is %d; at least 1, or 0 for the default", c.TimeoutBatch)
	bad(c.Poll < 0, "Poll is %s; more than 0, or 0 for the default", c.Poll)
	bad(c.MaxStash < 0, "MaxStash is %d; at least 1, or 0 for the default", c.MaxStash)
	bad(c.Early < 0, "Early is %s; more than 0, or 0 for the default", c.Early)
	return errors.Join(faults...)
}
