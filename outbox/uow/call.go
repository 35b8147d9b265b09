package uow

import (
	"context"
	"runtime/debug"
	"sync/atomic"
)

// The states of a call while it waits.
const (
	queued int32 = iota
	taken        // a writer has it; it cannot leave any more
	left         // its context ended first
)

// A call is one caller of Do. fn runs on the caller's goroutine, whenever a writer passes it the turn.
type call struct {
	ctx   context.Context
	fn    func(context.Context) error
	state atomic.Int32
	turn  chan *attempt // nil ends the call; room for one, so that a writer never waits for a caller

	// Written by the writer before it ends the call.
	err      error
	panicked *panicked
	exited   bool // the caller's goroutine ended inside fn
}

type panicked struct {
	value any
	stack []byte
}

func newCall(ctx context.Context, fn func(context.Context) error) *call {
	return &call{ctx: ctx, fn: fn, turn: make(chan *attempt, 1)}
}

// wait runs fn whenever it is this caller's turn, until a writer ends the call.
func (c *call) wait() error {
	gone := c.ctx.Done()
	for {
		select {
		case a := <-c.turn:
			if a == nil {
				return c.result()
			}
			a.run(c.fn)
		case <-gone:
			if c.state.CompareAndSwap(queued, left) {
				return c.ctx.Err()
			}
			gone = nil
		}
	}
}

func (c *call) result() error {
	if c.panicked != nil {
		panic(c.panicked.value)
	}
	return c.err
}

// end answers the caller. Each call is ended exactly once.
func (c *call) end(err error) {
	c.err = err
	c.turn <- nil
}

// An attempt is one run of a call's fn in one transaction.
type attempt struct {
	ctx  context.Context
	done chan struct{}

	// Written before done is closed.
	err      error
	panicked *panicked
	exited   bool
}

func (a *attempt) run(fn func(context.Context) error) {
	returned := false
	defer func() {
		if !returned {
			if v := recover(); v != nil {
				a.panicked = &panicked{v, debug.Stack()}
			} else {
				a.exited = true
			}
		}
		close(a.done)
	}()
	a.err = fn(a.ctx)
	returned = true
}
