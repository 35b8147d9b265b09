package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/surge-go/surge/resilience"
)

// ErrInjected is the error of a fault that names none.
var ErrInjected = errors.New("chaos: injected fault")

// Fault is one way in which calls go wrong.
type Fault struct {
	// Rate is the share of the calls that it hits, from 0 to 1.
	Rate float64
	// Latency is how long a call that is hit waits first. It ends with the call's context, which is then the
	// call's error, and the call has not run. 0 adds none.
	Latency time.Duration
	// Outcome is what happens after that.
	//   - OK: the call runs, and its result counts; use it with Latency
	//   - NotExecuted and Failed: the call does not run and fails with Err, marked with this outcome
	//   - InDoubt: one half of the calls run and lose their answer, the other half do not run; both fail with
	//     Err, and the caller cannot tell which
	Outcome resilience.Outcome
	// Err is the error of a call that fails. Nil means ErrInjected.
	Err error
}

// Config configures [New]. The zero value injects nothing.
type Config struct {
	// Seed makes the sequence of faults repeatable: the same seed and the same order of calls give the same
	// faults. 0 is a seed like any other.
	Seed uint64
	// Faults are tried in order; the first that hits a call is the only one. Their rates are independent: the
	// second applies to what the first has left.
	Faults []Fault
	// Off starts with the faults switched off.
	Off bool
}

// Validate reports every fault that is out of range, joined.
func (c Config) Validate() error {
	var errs []error
	for i, f := range c.Faults {
		if !(f.Rate >= 0 && f.Rate <= 1) {
			errs = append(errs, fmt.Errorf("chaos: Faults[%d].Rate is %v, must be between 0 and 1", i, f.Rate))
		}
		if f.Latency < 0 {
			errs = append(errs, fmt.Errorf("chaos: Faults[%d].Latency is %v, must not be negative", i, f.Latency))
		}
		if f.Outcome < resilience.OK || f.Outcome > resilience.InDoubt {
			errs = append(errs, fmt.Errorf("chaos: Faults[%d].Outcome is %d, which is none", i, f.Outcome))
		}
	}
	return errors.Join(errs...)
}

// Injector injects faults. Safe for concurrent use.
type Injector struct {
	mu     sync.Mutex
	faults []Fault
	on     bool
	random *rand.Rand
	hits   uint64
}

// New returns an injector, switched on unless cfg.Off, or what [Config.Validate] reports.
func New(cfg Config) (*Injector, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Injector{
		faults: append([]Fault(nil), cfg.Faults...),
		on:     !cfg.Off,
		random: rand.New(rand.NewPCG(cfg.Seed, 0)), //nolint:gosec // repeatable on purpose
	}, nil
}

// Switch switches the faults on or off.
func (in *Injector) Switch(on bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.on = on
}

// Set replaces the faults and goes on with the same sequence of random numbers. It returns what
// [Config.Validate] reports, and then changes nothing.
func (in *Injector) Set(faults ...Fault) error {
	if err := (Config{Faults: faults}).Validate(); err != nil {
		return err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.faults = append([]Fault(nil), faults...)
	return nil
}

// Hits returns how many calls were hit so far.
func (in *Injector) Hits() uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.hits
}

// Policy returns the injector as a layer of a pipeline. Put it innermost, where the dependency is.
func (in *Injector) Policy() resilience.Policy { return resilience.Wrap("chaos", in.Run) }

// Run calls fn, or injects a fault. It is for code without a pipeline.
func (in *Injector) Run(ctx context.Context, fn func(context.Context) error) error {
	f, hit, runs := in.draw()
	if !hit {
		return fn(ctx)
	}
	if err := pause(ctx, f.Latency); err != nil {
		return resilience.WithOutcome(err, resilience.NotExecuted)
	}
	switch f.Outcome {
	case resilience.OK:
		return fn(ctx)
	case resilience.InDoubt:
		if runs {
			_ = fn(ctx)
		}
	}
	return f.failure()
}

// draw decides the fate of one call. It takes the same number of random numbers whatever hits, so that the
// rate of one fault does not change what happens to later calls.
func (in *Injector) draw() (f Fault, hit, runs bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.on {
		return Fault{}, false, false
	}
	runs = in.random.Uint64()&1 == 0
	for _, candidate := range in.faults {
		if in.random.Float64() < candidate.Rate && !hit {
			f, hit = candidate, true
		}
	}
	if hit {
		in.hits++
	}
	return f, hit, runs
}

func (f Fault) failure() error {
	err := f.Err
	if err == nil {
		err = ErrInjected
	}
	return resilience.WithOutcome(err, f.Outcome)
}

func pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
