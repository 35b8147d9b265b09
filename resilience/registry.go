package resilience

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// ErrUnknownPipeline is returned for a name that a [Registry] does not hold.
var ErrUnknownPipeline = errors.New("resilience: no pipeline of this name")

// Registry holds named pipelines, so that an operations console can list, force and reset them.
// The zero value is empty and ready. Safe for concurrent use.
type Registry struct {
	mu    sync.RWMutex
	named map[string]*Pipeline
}

// Status is what a [Registry] tells of a pipeline.
type Status struct {
	// Name is the pipeline's name.
	Name string
	// Policies describes its policies, outermost first.
	Policies []string
	// State is the worst state of its breakers.
	State State
	// Forced reports that somebody has forced one of its breakers open or closed.
	Forced bool
}

// Add adds pipelines. One whose name is taken is an error, and nothing is added then.
func (r *Registry) Add(ps ...*Pipeline) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	added := make(map[string]bool, len(ps))
	for _, p := range ps {
		if r.named[p.name] != nil || added[p.name] {
			return fmt.Errorf("resilience: registry: pipeline %q is there already", p.name)
		}
		added[p.name] = true
	}
	for _, p := range ps {
		r.put(p)
	}
	return nil
}

// Replace adds p in place of a pipeline of the same name, if there is one.
func (r *Registry) Replace(p *Pipeline) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.put(p)
}

func (r *Registry) put(p *Pipeline) {
	if r.named == nil {
		r.named = make(map[string]*Pipeline)
	}
	r.named[p.name] = p
}

// Remove forgets the pipeline of this name, if there is one.
func (r *Registry) Remove(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.named, name)
}

// forget removes p, but not another one that has taken its name.
func (r *Registry) forget(p *Pipeline) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.named[p.name] == p {
		delete(r.named, p.name)
	}
}

// Get returns the pipeline of this name, or ErrUnknownPipeline.
func (r *Registry) Get(name string) (*Pipeline, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if p, ok := r.named[name]; ok {
		return p, nil
	}
	return nil, fmt.Errorf("%w: %q", ErrUnknownPipeline, name)
}

// List returns the state of every pipeline, by name.
func (r *Registry) List() []Status {
	r.mu.RLock()
	ps := make([]*Pipeline, 0, len(r.named))
	for _, p := range r.named {
		ps = append(ps, p)
	}
	r.mu.RUnlock()
	slices.SortFunc(ps, func(a, b *Pipeline) int { return strings.Compare(a.name, b.name) })
	out := make([]Status, len(ps))
	for i, p := range ps {
		out[i] = Status{Name: p.name, Policies: p.Policies(), State: p.State(), Forced: p.forced()}
	}
	return out
}

func (p *Pipeline) forced() bool { return slices.ContainsFunc(p.breakers(), (*Breaker).Forced) }
