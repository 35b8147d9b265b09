package migration

import (
	"context"
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"gorm.io/gorm"

	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/resilience"
	"github.com/surge-go/surge/resilience/messaging"
)

// protect takes the place of Retry, CircuitBreaker and Timeout. While the breaker is open, messages wait in front of
// their handler, neither acked nor nacked.
func protect(router *message.Router, once message.HandlerMiddleware) error {
	pipeline, err := resilience.New("orders",
		resilience.Retry(resilience.RetryConfig{}),
		resilience.NewBreaker(resilience.BreakerConfig{Cooldown: time.Second}),
		resilience.Timeout(5*time.Second),
	)
	if err != nil {
		return err
	}
	router.AddMiddleware(messaging.Middleware(pipeline), once)
	return nil
}

// WithResilience waits while something is down.
func WithResilience(ctx context.Context, db *gorm.DB, pub message.Publisher, sub message.Subscriber) (*App, error) {
	b, err := newBase(ctx, db)
	if err != nil {
		return nil, err
	}
	if err := idempotency.Migrate(ctx, db); err != nil {
		return nil, err
	}
	router, err1 := newRouter()
	relay, err2 := b.relay(pub)
	commands, err3 := newCommandBus(pub)
	h, err4 := b.handlers()
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	inbox := idempotency.NewInbox(idempotency.InboxConfig{})
	err = errors.Join(protect(router, Once(b.work, inbox, "orders")), listen(router, sub, h))
	return &App{Send: commands.Send, parts: []part{router.Run, relay.Run}}, err
}
