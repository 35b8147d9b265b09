package resilience

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A Policy is one layer of a [Pipeline]. The policies of this package are the only ones;
// one of your own is made with [Wrap].
type Policy interface {
	// describe names the policy and its limits, for people.
	describe() string
	// check reports a configuration that cannot work.
	check() error
	// fresh returns a policy of the same configuration with a state of its own.
	fresh() Policy
	// run calls the layers from i on inside of itself, by way of c.next.
	run(ctx context.Context, c *call, i int) error
}

// Pipeline is policies around a call. It holds their state: the retry budget, the breaker, the limits.
// Make one for each dependency at start-up and share it. Safe for concurrent use.
type Pipeline struct {
	name     string
	policies []Policy
	observer Observer
	frames   *sync.Pool // of call state; nil if a policy could keep a call's next beyond the call
}

// New makes a pipeline of policies, listed outermost first. No policies at all is a plain call.
//
// It refuses what cannot work with an error that says why, all faults joined: an empty name, a policy with
// a bad configuration, and an order that defeats one of the policies, such as a breaker outside of the retry
// that it should stop, or a timeout around a retry that ends before the first backoff. The package
// documentation lists the orders.
func New(name string, ps ...Policy) (*Pipeline, error) {
	var faults []error
	if name == "" {
		faults = append(faults, errors.New("the name is empty"))
	}
	for i, p := range ps {
		if p == nil {
			return nil, fmt.Errorf("resilience: pipeline %q: policy %d is nil", name, i+1)
		}
		if err := p.check(); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", p.describe(), err))
		}
	}
	faults = append(faults, checkOrder(ps)...)
	if len(faults) > 0 {
		return nil, fmt.Errorf("resilience: pipeline %q: %w", name, errors.Join(faults...))
	}
	return newPipeline(name, append([]Policy(nil), ps...)), nil
}

func newPipeline(name string, ps []Policy) *Pipeline {
	p := &Pipeline{name: name, policies: ps}
	if !slices.ContainsFunc(ps, func(l Policy) bool { _, ok := l.(*wrapper); return ok }) {
		p.frames = new(sync.Pool)
	}
	return p
}

// Must returns p and panics if err is not nil. It is for pipelines that are known to be right: Must(New(…)).
func Must(p *Pipeline, err error) *Pipeline {
	if err != nil {
		panic(err)
	}
	return p
}

// Standard is the pipeline to begin with: [Timeout] 10 s for the whole call, [Retry] with its defaults
// (3 tries), a [Breaker] with its defaults, and a Timeout of 3 s for each try. It panics if name is empty.
func Standard(name string) *Pipeline {
	return Must(New(name,
		Timeout(10*time.Second),
		Retry(RetryConfig{}),
		NewBreaker(BreakerConfig{}),
		Timeout(3*time.Second),
	))
}

// Name returns the name given to [New].
func (p *Pipeline) Name() string { return p.name }

// Policies describes the policies with their limits, outermost first, for people to read.
func (p *Pipeline) Policies() []string {
	out := make([]string, len(p.policies))
	for i, l := range p.policies {
		out[i] = l.describe()
	}
	return out
}

// Copy returns a pipeline of the same policies under another name, with a state of its own:
// its breaker is closed, its budget full, its limits unused. It reports to the same [Observer].
func (p *Pipeline) Copy(name string) *Pipeline {
	fresh := make([]Policy, len(p.policies))
	for i, l := range p.policies {
		fresh[i] = l.fresh()
	}
	c := newPipeline(name, fresh)
	if p.observer == nil {
		return c
	}
	return c.Observe(p.observer)
}

// State returns the worst state of the pipeline's breakers: Open before HalfOpen before Closed.
// A pipeline without a breaker is Closed.
func (p *Pipeline) State() State {
	worst := Closed
	for _, b := range p.breakers() {
		worst = max(worst, b.State())
	}
	return worst
}

// RetryAfter returns how long the pipeline's breakers go on refusing calls; 0 means that a call would pass
// or be tried as a probe. The other policies are not asked.
func (p *Pipeline) RetryAfter() time.Duration {
	var wait time.Duration
	for _, b := range p.breakers() {
		wait = max(wait, b.RetryAfter())
	}
	return wait
}

// ForceOpen makes every breaker of the pipeline refuse calls until Reset. See [Breaker.ForceOpen].
func (p *Pipeline) ForceOpen() { p.eachBreaker((*Breaker).ForceOpen) }

// ForceClosed makes every breaker of the pipeline let calls pass until Reset. See [Breaker.ForceClosed].
func (p *Pipeline) ForceClosed() { p.eachBreaker((*Breaker).ForceClosed) }

// Reset closes every breaker of the pipeline and forgets what it counted. See [Breaker.Reset].
func (p *Pipeline) Reset() { p.eachBreaker((*Breaker).Reset) }

func (p *Pipeline) eachBreaker(f func(*Breaker)) {
	for _, b := range p.breakers() {
		f(b)
	}
}

func (p *Pipeline) breakers() []*Breaker {
	var out []*Breaker
	for _, l := range p.policies {
		if b, ok := l.(*Breaker); ok {
			out = append(out, b)
		}
	}
	return out
}
