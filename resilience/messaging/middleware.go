package messaging

import (
	"context"
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/resilience"
)

// The bounds of a pause. The lower one keeps handlers from spinning while a probe is under way.
const (
	shortestPause = 50 * time.Millisecond
	longestPause  = 30 * time.Second
)

// Middleware runs handlers through p. While p refuses a message, because its breaker is open or a limit is
// reached, the message waits in the handler, neither acked nor nacked, for as long as the refusal asks
// (between 50 ms and 30 s), and then tries again. So the intake of its subscription stands still instead of
// spinning, and no redelivery is consumed; subscribers stop fetching when enough messages are unacked.
//
// Use one pipeline for each dependency, and separate handlers for messages that must go on while it is down:
// whatever shares the subscription waits as well. A message whose context ends while it waits, as when the
// router closes, is returned with an error and so nacked.
//
// A refusal that the handler returns from a pipeline of its own pauses it in the same way.
//
// The handler gets a message whose context ends with the policies' timeouts. If p retries, the
// handler must be safe to repeat, as it must be for redelivery anyway. p must not hedge: a message is one.
func Middleware(p *resilience.Pipeline) message.HandlerMiddleware {
	return func(h message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) { return handle(p, h, msg) }
	}
}

func handle(p *resilience.Pipeline, h message.HandlerFunc, msg *message.Message) ([]*message.Message, error) {
	ctx := msg.Context()
	defer msg.SetContext(ctx)
	for {
		produced, err := resilience.Do(ctx, p, func(ctx context.Context) ([]*message.Message, error) {
			msg.SetContext(ctx)
			return h(msg)
		})
		wait, refused := refusal(err)
		if !refused {
			return produced, err
		}
		if ended := pause(ctx, wait); ended != nil {
			return nil, errors.Join(ended, err)
		}
	}
}

// refusal reports whether err is a refusal before the handler ran, and how long to wait.
func refusal(err error) (time.Duration, bool) {
	refused, ok := errors.AsType[*resilience.RejectedError](err)
	if !ok || resilience.OutcomeOf(err) != resilience.NotExecuted {
		return 0, false
	}
	return min(max(refused.Wait, shortestPause), longestPause), true
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
