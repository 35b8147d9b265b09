package unit

import (
	"context"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga"
)

// Participant registers a saga's participant; without idempotency, two handlers that remember nothing.
func Participant[C cqrs.Request[R], R, U any](
	u *Unit, do func(context.Context, C) (R, error), undo func(context.Context, U) error, o ...cqrs.HandlerOption,
) {
	if !u.cfg.Unsafe.Idempotency {
		saga.Participant(u.Processor, do, undo, o...)
		return
	}
	cqrs.Handle(u.Processor, do, o...)
	cqrs.On(u.Processor, undo, o...)
}

// Forward registers a participant that is never undone, and whose handler cannot tell a command that comes twice.
func Forward[C cqrs.Request[R], R any](
	u *Unit, do func(context.Context, C) (R, error), o ...cqrs.HandlerOption,
) {
	if u.cfg.Unsafe.Idempotency {
		cqrs.Handle(u.Processor, do, o...)
		return
	}
	saga.Participant(u.Processor, do, saga.NoUndo, o...)
}
