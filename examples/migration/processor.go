package migration

import (
	"context"
	"errors"

	"github.com/ThreeDotsLabs/watermill/message"
	"gorm.io/gorm"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/cqrs/kafkabus"
	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox/uow"
)

// messages names the types once, for all services. Names and topics are those that the project had.
var messages = cqrs.NewCatalog(
	cqrs.Command[PlaceOrder]{
		Name: "PlaceOrder", Topic: "commands.PlaceOrder", Key: func(c PlaceOrder) string { return c.ID },
	},
	cqrs.Event[OrderPlaced]{
		Name: "OrderPlaced", Topic: "events.OrderPlaced", Key: func(e OrderPlaced) string { return e.ID },
	},
)

// newProcessor takes the place of the Router, its middlewares and Watermill's command and event processors.
func (b *base) newProcessor(
	sender *cqrs.Sender, subscribe func(group string) (message.Subscriber, error),
) (*cqrs.Processor, error) {
	dead, err := gormstore.NewDeadLetters(b.work, gormstore.DeadLettersConfig{})
	if err != nil {
		return nil, err
	}
	return cqrs.NewProcessor("orders", sender, cqrs.ProcessorConfig{
		Subscribe:     subscribe,
		UnitOfWork:    b.work,
		InTransaction: uow.In,
		Inbox:         idempotency.NewInbox(idempotency.InboxConfig{}),
		Parking:       gormstore.NewParking(),
		DeadLetters:   dead,
	})
}

// register has the same handlers as before, without a transaction of their own: the processor has it.
func register(p *cqrs.Processor, s *cqrs.Sender) {
	cqrs.On(p, func(ctx context.Context, c PlaceOrder) error {
		if err := uow.DB(ctx).Create(&Order{c.ID, c.SKU}).Error; err != nil {
			return err
		}
		return s.Publish(ctx, OrderPlaced(c))
	})
	cqrs.On(p, func(ctx context.Context, e OrderPlaced) error { return reserve(uow.DB(ctx), e.SKU) })
}

// WithProcessor runs the handlers in batches, over the subscriber that the project has.
func WithProcessor(
	ctx context.Context, db *gorm.DB, pub message.Publisher,
	subscribe func(group string) (message.Subscriber, error),
) (*App, error) {
	b, err := newBase(ctx, db)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(idempotency.Migrate(ctx, db), gormstore.Migrate(ctx, db)); err != nil {
		return nil, err
	}
	sender, err1 := cqrs.NewSender(messages, b.box, cqrs.SenderConfig{Source: "orders"})
	relay, err2 := b.relay(pub)
	commands, err3 := newCommandBus(pub) // others still send as they did
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	p, err := b.newProcessor(sender, subscribe)
	if err != nil {
		return nil, err
	}
	register(p, sender)
	return &App{Send: commands.Send, parts: []part{p.Run, relay.Run}}, nil
}

// WithKafkabus delivers many messages of a partition before the first is acked.
func WithKafkabus(ctx context.Context, db *gorm.DB, bus *kafkabus.Bus) (*App, error) {
	return WithProcessor(ctx, db, bus.Publisher(), bus.Subscriber)
}
