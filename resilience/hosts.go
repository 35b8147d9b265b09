package resilience

import (
	"slices"
	"sync"
)

// hostPipelines keeps a copy of a pipeline for each host. Safe for concurrent use.
type hostPipelines struct {
	model    *Pipeline
	most     int
	registry *Registry

	mu   sync.RWMutex
	copy map[string]*Pipeline
}

func (h *hostPipelines) of(host string) *Pipeline {
	h.mu.RLock()
	p, ok := h.copy[host]
	h.mu.RUnlock()
	if ok {
		return p
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if p, ok := h.copy[host]; ok {
		return p
	}
	if h.copy == nil {
		h.copy = make(map[string]*Pipeline)
	}
	if len(h.copy) >= h.most {
		h.makeRoom()
	}
	p = h.model.Copy(h.model.name + "/" + host)
	h.copy[host] = p
	if h.registry != nil {
		h.registry.Replace(p)
	}
	return p
}

// makeRoom drops one copy, by preference one whose state says nothing. It tells nobody of a transition that is due: who
// hears of it may ask for a host.
func (h *hostPipelines) makeRoom() {
	var victim string
	for host, p := range h.copy {
		victim = host
		if !slices.ContainsFunc(p.breakers(), (*Breaker).speaks) {
			break
		}
	}
	if h.registry != nil {
		h.registry.forget(h.copy[victim])
	}
	delete(h.copy, victim)
}
