package cqrs

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// keyLocks are named locks within the process. Its zero value is ready.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]*keyLock
}

type keyLock struct {
	free chan struct{} // holds one token
	uses int           // holders and waiters
}

// heldLocks is the key of the locks that a context's handler runs under.
type heldLocks struct{ in *keyLocks }

// A holding is what one call of lock took, until it is over: a context may outlive that.
type holding struct {
	outer *holding
	names []string
	over  atomic.Bool
}

func (h *holding) has(name string) bool {
	for ; h != nil; h = h.outer {
		if !h.over.Load() && slices.Contains(h.names, name) {
			return true
		}
	}
	return false
}

// lock takes names, sorted and distinct, in order, but for those that ctx holds already: a command that is executed
// inside a handler must not wait for it. It gives up, holding no more than before, when ctx ends.
func (l *keyLocks) lock(ctx context.Context, names []string) (locked context.Context, unlock func(), err error) {
	outer, _ := ctx.Value(heldLocks{l}).(*holding)
	h := &holding{outer: outer, names: make([]string, 0, len(names))}
	unlock = func() {
		h.over.Store(true)
		for _, n := range h.names {
			l.release(n, true)
		}
	}
	for _, n := range names {
		if outer.has(n) {
			continue
		}
		k := l.use(n)
		select {
		case <-k.free:
			h.names = append(h.names, n)
		case <-ctx.Done():
			l.release(n, false)
			unlock()
			return nil, nil, ctx.Err()
		}
	}
	return context.WithValue(ctx, heldLocks{l}, h), unlock, nil
}

func (l *keyLocks) use(name string) *keyLock {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.held[name]
	if k == nil {
		k = &keyLock{free: make(chan struct{}, 1)}
		k.free <- struct{}{}
		if l.held == nil {
			l.held = map[string]*keyLock{}
		}
		l.held[name] = k
	}
	k.uses++
	return k
}

func (l *keyLocks) release(name string, held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.held[name]
	if held {
		k.free <- struct{}{}
	}
	if k.uses--; k.uses == 0 {
		delete(l.held, name)
	}
}
