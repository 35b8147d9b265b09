package migration

import (
	"context"
	"errors"
	"reflect"

	"github.com/ThreeDotsLabs/watermill/message"
	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
)

// stamp adds what the Surge side reads: the key, which keeps order, and the type, as headers of CloudEvents.
// Watermill's own side does not mind.
func stamp(m *message.Message, name, kind string, payload any) {
	id := reflect.Indirect(reflect.ValueOf(payload)).FieldByName("ID").String()
	m.Metadata.Set("ce_partitionkey", id)
	m.Metadata.Set("ce_type", name)
	m.Metadata.Set("ce_kind", kind)
}

// base is what every step from the first on is made of.
type base struct {
	db   *gorm.DB
	work *uow.UnitOfWork
	box  *outbox.Outbox
}

func newBase(ctx context.Context, db *gorm.DB) (*base, error) {
	err := outbox.Migrate(ctx, db)
	if err != nil {
		return nil, err
	}
	b := &base{db: db}
	b.work, err = uow.New(db, uow.Config{})
	if err != nil {
		return nil, err
	}
	b.box, err = outbox.New(db, outbox.Config{})
	return b, err
}

// WithOutbox publishes through the outbox, which is a message.Publisher: the buses stay as they are.
func WithOutbox(ctx context.Context, db *gorm.DB, pub message.Publisher, sub message.Subscriber) (*App, error) {
	b, err := newBase(ctx, db)
	if err != nil {
		return nil, err
	}
	router, err1 := newRouter()
	relay, err2 := b.relay(pub)
	commands, err3 := newCommandBus(pub)
	h, err4 := b.handlers()
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	return &App{Send: commands.Send, parts: []part{router.Run, relay.Run}}, listen(router, sub, h)
}

func (b *base) handlers() (Handlers, error) {
	events, err := newEventBus(b.box) // was newEventBus(pub)
	return Handlers{
		Place: func(ctx context.Context, c *PlaceOrder) error {
			return b.work.Do(ctx, func(ctx context.Context) error {
				if err := uow.DB(ctx).Create(&Order{c.ID, c.SKU}).Error; err != nil {
					return err
				}
				return events.Publish(ctx, OrderPlaced{c.ID, c.SKU}) // a row of the same transaction
			})
		},
		Reserve: func(ctx context.Context, e *OrderPlaced) error {
			return b.work.Do(ctx, func(ctx context.Context) error { return reserve(uow.DB(ctx), e.SKU) })
		},
	}, err
}

// relay moves committed messages to the broker. It takes the place of forwarder.Forwarder.
func (b *base) relay(pub message.Publisher) (*outbox.Relay, error) {
	return outbox.NewRelay(b.box, pub, outbox.RelayConfig{UnitOfWork: b.work})
}
