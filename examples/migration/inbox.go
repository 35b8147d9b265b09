package migration

import (
	"context"
	"errors"

	"github.com/ThreeDotsLabs/watermill/message"
	"gorm.io/gorm"

	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox/uow"
)

// Once is a middleware that runs a handler and remembers its message in one transaction. It takes the place of
// Deduplicator. A handler that opens a unit of work of its own joins this one.
func Once(work *uow.UnitOfWork, inbox *idempotency.Inbox, group string) message.HandlerMiddleware {
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(m *message.Message) (out []*message.Message, err error) {
			outer := m.Context()
			defer m.SetContext(outer)
			err = work.Do(outer, func(ctx context.Context) error {
				out = nil
				fresh, err := inbox.Claim(ctx, group, []string{m.UUID})
				if err != nil || !fresh[0] {
					return err
				}
				m.SetContext(ctx)
				out, err = next(m)
				return err
			})
			return out, err
		}
	}
}

// WithInbox handles what comes twice once.
func WithInbox(ctx context.Context, db *gorm.DB, pub message.Publisher, sub message.Subscriber) (*App, error) {
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
	router.AddMiddleware(Once(b.work, inbox, "orders"))
	return &App{Send: commands.Send, parts: []part{router.Run, relay.Run}}, listen(router, sub, h)
}
