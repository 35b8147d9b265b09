package cqrs

import (
	"context"
	"slices"
	"sync"
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

// heldLocks is the key of the names that a context's handler runs under.
type heldLocks struct{ in *keyLocks }

// lock takes names, sorted and distinct, in order, but for those that ctx holds already: a command that is executed
// inside a handler must not wait for it. It gives up, holding no more than before, when ctx ends.
func (l *keyLocks) lock(ctx context.Context, names []string) (locked context.Context, unlock func(), err error) {
	before, _ := ctx.Value(heldLocks{l}).([]string)
	taken := make([]string, 0, len(names))
	unlock = func() {
		for _, n := range taken {
			l.release(n, true)
		}
	}
	for _, n := range names {
		if slices.Contains(before, n) {
			continue
		}
		k := l.use(n)
		select {
		case <-k.free:
			taken = append(taken, n)
		case <-ctx.Done():
			l.release(n, false)
			unlock()
			return nil, nil, ctx.Err()
		}
	}
	return context.WithValue(ctx, heldLocks{l}, slices.Concat(before, taken)), unlock, nil
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
