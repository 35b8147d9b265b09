package idempotency

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/surge-go/surge/outbox/uow"
)

type intentKey struct{}

func intentOf(ctx context.Context) *intent {
	in, _ := ctx.Value(intentKey{}).(*intent)
	return in
}

// KeyFrom returns the key of the request that ctx belongs to, inside [ForCommands], [MiddlewareTx] and
// [Middleware]. Identifiers of what the request creates should come from [Key.UUID].
func KeyFrom(ctx context.Context) (Key, bool) {
	k, ok := ctx.Value(keyKey{}).(Key)
	return k, ok
}

type keyKey struct{}

// Once runs a command under the key that [ForCommands] has attached to ctx, or only runs it when there is none.
// It satisfies cqrs.Keys: call it inside the unit of work, first thing in the function given to Do.
// result must be a pointer to what JSON can encode. When run returns nil, *result is stored when the transaction
// commits, and is set to what the encoding kept of it, so that the first answer and its replays are made of the
// same record. When the key is done, *result is set to what was stored, and run is not called.
//
// Errors: run's own, after which the key is free again; [ErrInFlight], [ErrMismatch], [ErrUnknown],
// [ErrNotReplayable]; [ErrSpent] for a second command of one request; [uow.ErrOtherUnit] when the store that was given
// to ForCommands has another unit of work: the key could not commit with the command.
func (s *GormStore) Once(ctx context.Context, result any, run func(ctx context.Context) error) error {
	in := intentOf(ctx)
	if in == nil {
		return run(ctx)
	}
	if in.store.work != s.work {
		in.failed = errOtherStore
		return errOtherStore
	}
	stored, err := in.resolve(ctx)
	if err != nil {
		in.failed = err
		return err
	}
	if stored != nil {
		return decode(stored.Body, result)
	}
	// Commands inside this one belong to it, and have no key of their own.
	if err := run(context.WithValue(ctx, intentKey{}, (*intent)(nil))); err != nil {
		return err
	}
	body, err := json.Marshal(result)
	if err != nil {
		return fmt.Errorf("idempotency: encode result: %w", err)
	}
	if err := decode(body, result); err != nil {
		return err
	}
	return in.answer(ctx, Result{Body: body})
}

var errOtherStore = fmt.Errorf("idempotency: ForCommands and the processor have different stores: %w", uow.ErrOtherUnit)

// decode sets *result to what body says, and nothing else.
func decode(body []byte, result any) error {
	v := reflect.ValueOf(result)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return fmt.Errorf("idempotency: the result must be a pointer, got %T", result)
	}
	v.Elem().SetZero()
	if err := json.Unmarshal(body, result); err != nil {
		return fmt.Errorf("idempotency: decode result: %w", err)
	}
	return nil
}
