package cqrs

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A hungHandler is one that was given up and has not returned.
type hungHandler struct {
	hand  *hand
	since time.Time
	what  string // type and ID, for people
	keys  []string
}

// hung keeps account of handlers that do not return. Its zero value is ready.
type hung struct {
	n   atomic.Int64 // of all, so that nobody pays for looking while there are none
	mu  sync.Mutex
	all []hungHandler
}

func (h *hung) add(e hungHandler) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, e)
	h.n.Store(int64(len(h.all)))
}

// prune forgets those that have returned; the caller holds mu.
func (h *hung) prune() {
	h.all = slices.DeleteFunc(h.all, func(e hungHandler) bool {
		select {
		case <-e.hand.ended:
			return true
		default:
			return false
		}
	})
	h.n.Store(int64(len(h.all)))
}

// blocks says for how long a handler of the key has not returned, 0 if none is hung.
func (h *hung) blocks(key string) time.Duration {
	if h.n.Load() == 0 {
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.prune()
	for _, e := range h.all {
		if slices.Contains(e.keys, key) {
			return max(time.Since(e.since), 1)
		}
	}
	return 0
}

func (h *hung) count() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.prune()
	return int64(len(h.all))
}

// wait waits for all of them until cut is closed, and names those that have not returned.
func (h *hung) wait(cut <-chan struct{}) error {
	h.mu.Lock()
	all := slices.Clone(h.all)
	h.mu.Unlock()
	for _, e := range all {
		select {
		case <-e.hand.ended:
		case <-cut:
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.prune()
	var errs []error
	for _, e := range h.all {
		errs = append(errs, fmt.Errorf("%w: %s, for %s", ErrHung, e.what, time.Since(e.since).Round(time.Millisecond)))
	}
	return errors.Join(errs...)
}
