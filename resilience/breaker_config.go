package resilience

import (
	"errors"
	"fmt"
	"time"
)

// BreakerConfig configures [NewBreaker]; the zero value works.
type BreakerConfig struct {
	// FailureRatio opens the breaker when this share of the calls in the window has failed. 0 means 0.5.
	// Negative turns the rule off.
	FailureRatio float64
	// MinCalls is how many calls the window must hold before FailureRatio counts. 0 means 20.
	MinCalls int
	// Window is over how long calls are counted. It tumbles: at its end, counting starts anew. A call counts
	// when it ends, so calls longer than the window count too. 0 means 10 s.
	Window time.Duration
	// Consecutive opens the breaker after so many failures without a success between them, within a window.
	// It is what guards callers of little traffic. 0 means 10, negative turns the rule off.
	Consecutive int
	// SlowAfter makes a call that takes longer count as a failure. 0 turns the rule off.
	SlowAfter time.Duration
	// Cooldown is how long the breaker stays open before it lets probes through. 0 means 5 s.
	Cooldown time.Duration
	// Probes is how many calls pass while the breaker is half-open: so many must succeed for it to close.
	// One failure opens it again. 0 means 1.
	Probes int
	// ProbeTimeout is when a probe that has not come back counts as failed, so that a hung one cannot hold
	// the breaker half-open. It does not end the probe. 0 means 10 s.
	ProbeTimeout time.Duration
	// IsFailure reports whether an error speaks against the dependency. It is not asked about cancellations
	// and refusals by policies inside, which never count. Nil counts all errors but definite answers (Failed).
	IsFailure func(error) bool
}

func (c BreakerConfig) withDefaults() BreakerConfig {
	if c.FailureRatio == 0 {
		c.FailureRatio = 0.5
	}
	if c.MinCalls == 0 {
		c.MinCalls = 20
	}
	if c.Window == 0 {
		c.Window = 10 * time.Second
	}
	if c.Consecutive == 0 {
		c.Consecutive = 10
	}
	if c.Cooldown == 0 {
		c.Cooldown = 5 * time.Second
	}
	if c.Probes == 0 {
		c.Probes = 1
	}
	if c.ProbeTimeout == 0 {
		c.ProbeTimeout = 10 * time.Second
	}
	if c.IsFailure == nil {
		c.IsFailure = func(err error) bool { return OutcomeOf(err) != Failed }
	}
	return c
}

// Validate reports every field that is out of range, joined. [New] calls it.
func (c BreakerConfig) Validate() error {
	c = c.withDefaults()
	var faults []error
	if !(c.FailureRatio <= 1) { // NaN is out of range too
		faults = append(faults, fmt.Errorf("field FailureRatio is %v, must be at most 1", c.FailureRatio))
	}
	if c.MinCalls < 1 {
		faults = append(faults, fmt.Errorf("field MinCalls is %d, must be at least 1", c.MinCalls))
	}
	if c.Probes < 1 {
		faults = append(faults, fmt.Errorf("field Probes is %d, must be at least 1", c.Probes))
	}
	if c.FailureRatio < 0 && c.Consecutive < 0 {
		faults = append(faults, errors.New("FailureRatio and Consecutive are both off, so it would never open"))
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"Window", c.Window}, {"Cooldown", c.Cooldown}, {"ProbeTimeout", c.ProbeTimeout}} {
		if d.value <= 0 {
			faults = append(faults, fmt.Errorf("field %s is %v, must be positive", d.name, d.value))
		}
	}
	if c.SlowAfter < 0 {
		faults = append(faults, fmt.Errorf("field SlowAfter is %v, must not be negative", c.SlowAfter))
	}
	return errors.Join(faults...)
}
