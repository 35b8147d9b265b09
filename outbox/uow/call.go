package uow

import (
	"context"
	"runtime"
	"sync/atomic"
)

// The states of a call while it waits.
const (
	queued int32 = iota
	taken        // a writer has it; it cannot leave any more
	left         // its context ended first
)

// A call is one caller of Do.
type call struct {
	ctx   context.Context
	fn    func(context.Context) error
	state atomic.Int32
	busy  atomic.Int32  // who still has it: the writer, and the runner that was given up with its fn
	ended chan struct{} // closed when nobody has it any more

	// Written by who has it.
	err      error
	panicked *panicked
	exited   bool // fn ended its goroutine
}

type panicked struct {
	value any
	stack []byte
}

func newCall(ctx context.Context, fn func(context.Context) error) *call {
	c := &call{ctx: ctx, fn: fn, ended: make(chan struct{})}
	c.busy.Store(1)
	return c
}

// wait waits for the outcome. A panic of fn, and its runtime.Goexit, go on here.
func (c *call) wait() error {
	select {
	case <-c.ended:
	case <-c.ctx.Done():
		if c.state.CompareAndSwap(queued, left) {
			return c.ctx.Err()
		}
		<-c.ended
	}
	if c.panicked != nil {
		panic(c.panicked.value)
	}
	if c.exited {
		runtime.Goexit()
	}
	return c.err
}

// end answers the caller, as soon as fn does not run any more. Each call is ended exactly once.
func (c *call) end(err error) {
	c.err = err
	c.leave()
}

// leave is called by everyone who has the call, once.
func (c *call) leave() {
	if c.busy.Add(-1) == 0 {
		close(c.ended)
	}
}
