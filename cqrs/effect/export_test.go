package effect

import (
	"context"

	"github.com/surge-go/surge/cqrs"
)

// NewWith makes a runner that replies through reply instead of a processor.
func NewWith(
	reply func(ctx context.Context, env cqrs.Envelope, result any, err error) error, store Store, cfg Config,
) *Runner {
	return newRunner(reply, store, cfg)
}
