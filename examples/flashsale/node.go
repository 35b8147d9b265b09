package main

import (
	"context"
	"sync"

	"github.com/surge-go/surge/examples/internal/unit"
)

// node is a service that can crash and come back at the same address, with nothing but its file.
type node struct {
	cfg    unit.Config
	open   func(context.Context, unit.Config) (*unit.Unit, error)
	failed chan<- error

	mu     sync.Mutex
	ready  *unit.Unit // opened, and not run yet
	unit   *unit.Unit // nil: it is down
	cancel context.CancelFunc
	done   chan struct{}
}

// prepare opens the service, without running it.
func (n *node) prepare(ctx context.Context) error {
	u, err := n.open(ctx, n.cfg)
	if err != nil {
		return err
	}
	n.cfg.Addr = u.Addr()
	n.ready = u
	u.Declare()
	return nil
}

// start runs the service, and opens it before if need be. One that runs is left alone.
func (n *node) start(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.unit != nil {
		return nil
	}
	if n.ready == nil {
		if err := n.prepare(ctx); err != nil {
			return err
		}
	}
	u := n.ready
	n.ready = nil
	run, cancel := context.WithCancel(context.Background())
	n.unit, n.cancel, n.done = u, cancel, make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		if err := u.Run(run); err != nil {
			n.failed <- err
		}
	}(n.done)
	return nil
}

// cut keeps what the service publishes from the bus, until it has crashed and is back.
func (n *node) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.unit != nil {
		n.unit.Cut()
	}
}

// crash kills the service. It returns when nothing of it is left.
func (n *node) crash() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.unit == nil {
		return
	}
	n.unit.Kill()
	n.end()
}

// stop ends the service politely.
func (n *node) stop() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ready != nil {
		return n.ready.Close()
	}
	if n.unit != nil {
		n.end()
	}
	return nil
}

// end is called with mu held.
func (n *node) end() {
	n.cancel()
	<-n.done
	n.unit = nil
}
