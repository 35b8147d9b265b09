package effect

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/surge-go/surge/cqrs"
)

// Outcome says what an error of [Effect.Call] tells about the provider.
type Outcome int

const (
	// InDoubt says that the call may have had its effect. It is what is assumed when nothing better is known.
	InDoubt Outcome = iota
	// NotExecuted says that the call certainly did not reach the provider.
	NotExecuted
	// Failed says that the call was answered and certainly had no effect. A [cqrs.Rejection] is the business's no.
	Failed
)

// Config configures a [Runner]; the zero value works.
type Config struct {
	// Concurrency is the number of calls at a time, for each effect, and of those that may be left behind because
	// they do not return: with more of them the effect has fewer. 0 means 64.
	Concurrency int
	// Timeout bounds one call, for effects that have none of their own. 0 means 10 s, or a third of Lease if that is
	// less. No timeout may be more than a third of Lease: a call that is begun while the lease certainly holds must
	// be over when another runner may take the intent.
	Timeout time.Duration
	// Backlog bounds the intents that wait in memory, for each effect; more wait in the store. 0 means 4096.
	Backlog int
	// Owner names the runner in the store. "" means a name that nobody else has. A runner with the name of one that
	// was killed takes its intents over at once instead of waiting until the lease has ended, so give a single
	// instance (a service on a SQLite file) its stable name, and never run two runners with one name on one
	// database at a time. At most 60 bytes of UTF-8, without # and zero bytes.
	Owner string
	// Lease is how long the intents of a runner that has died stay untouched. 0 means 30 s. It is renewed
	// every third of it.
	Lease time.Duration
	// Poll is the longest pause between two looks for intents that are due. 0 means 1 s.
	Poll time.Duration
	// Attempts is the number of calls that count after which an intent is parked. 0 means as many as fit
	// into [Effect.Keep].
	Attempts int
	// MinBackoff and MaxBackoff bound the wait before a call is repeated. 0 means 100 ms and 1 min. An error with a
	// RetryAfter() time.Duration may ask for a longer one, up to the end of [Effect.Keep].
	MinBackoff, MaxBackoff time.Duration
	// Outcome reads an error, for instance through resilience.OutcomeOf. nil takes a [cqrs.Rejection] for
	// Failed, what wraps [cqrs.ErrNotExecuted] for NotExecuted, and anything else for InDoubt. So is what it panics at.
	Outcome func(error) Outcome
	// Logger hears of what is postponed, parked or lost. nil discards.
	Logger *slog.Logger
}

// Validate joins every fault of the configuration.
func (c Config) Validate() error {
	var faults []error
	for name, n := range map[string]int{"Concurrency": c.Concurrency, "Backlog": c.Backlog, "Attempts": c.Attempts} {
		if n < 0 {
			faults = append(faults, fmt.Errorf("effect: Config.%s is %d, it may not be negative", name, n))
		}
	}
	for name, d := range map[string]time.Duration{
		"Timeout": c.Timeout, "Poll": c.Poll, "MinBackoff": c.MinBackoff, "MaxBackoff": c.MaxBackoff,
	} {
		if d < 0 {
			faults = append(faults, fmt.Errorf("effect: Config.%s is %v, it may not be negative", name, d))
		}
	}
	if len(c.Owner) > maxOwner || strings.ContainsAny(c.Owner, ownerMark+"\x00") || !utf8.ValidString(c.Owner) {
		faults = append(faults, fmt.Errorf("effect: Config.Owner is %q, at most %d bytes of UTF-8 without %s and zero"+
			" bytes are needed", c.Owner, maxOwner, ownerMark))
	}
	if c.Lease < 0 || c.Lease > 0 && c.Lease < minLease {
		faults = append(faults, fmt.Errorf("effect: Config.Lease is %v, at least %v is needed", c.Lease, minLease))
	}
	c = c.withDefaults()
	if c.MinBackoff > c.MaxBackoff {
		faults = append(faults, fmt.Errorf("effect: Config.MinBackoff is %v, more than MaxBackoff %v",
			c.MinBackoff, c.MaxBackoff))
	}
	if c.Timeout > c.longest() {
		faults = append(faults, fmt.Errorf("effect: Config.Timeout is %v, at most a third of Lease, %v, is allowed",
			c.Timeout, c.longest()))
	}
	return errors.Join(faults...)
}

// longest is what a call that begins before two thirds of the lease are over has left.
func (c Config) longest() time.Duration { return c.Lease / 3 }

const (
	minLease  = time.Second
	maxOwner  = 60
	ownerMark = "#" // between an owner's name and its incarnation
)

func (c Config) withDefaults() Config {
	if c.Concurrency == 0 {
		c.Concurrency = 64
	}
	if c.Backlog == 0 {
		c.Backlog = 4096
	}
	if c.Lease == 0 {
		c.Lease = 30 * time.Second
	}
	if c.Timeout == 0 {
		c.Timeout = min(10*time.Second, c.longest())
	}
	if c.Poll == 0 {
		c.Poll = time.Second
	}
	if c.MinBackoff == 0 {
		c.MinBackoff = 100 * time.Millisecond
	}
	if c.MaxBackoff == 0 {
		c.MaxBackoff = time.Minute
	}
	if c.Outcome == nil {
		c.Outcome = outcomeOf
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func outcomeOf(err error) Outcome {
	switch {
	case cqrs.AsRejection(err) != nil:
		return Failed
	case errors.Is(err, cqrs.ErrNotExecuted):
		return NotExecuted
	default:
		return InDoubt
	}
}
