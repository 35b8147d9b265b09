// Package migration is the code of docs/migrating-from-watermill.md: a project on Watermill's Router and CQRS
// component, and what it looks like after each step towards Surge. A test runs every step, and another one compares
// the guide's blocks with these files.
package migration

import (
	"context"
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wcqrs "github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"gorm.io/gorm"
)

type (
	PlaceOrder  struct{ ID, SKU string }
	OrderPlaced struct{ ID, SKU string }

	Order struct {
		ID  string `gorm:"primaryKey"`
		SKU string
	}
	Stock struct {
		SKU   string `gorm:"primaryKey"`
		Units int
	}
)

var (
	logger    = watermill.NopLogger{}
	marshaler = wcqrs.JSONMarshaler{GenerateName: wcqrs.StructName}
)

// Handlers are what the project is about.
type Handlers struct {
	Place   func(context.Context, *PlaceOrder) error
	Reserve func(context.Context, *OrderPlaced) error
}

// reserve takes a unit of stock, in whatever transaction tx is.
func reserve(tx *gorm.DB, sku string) error {
	res := tx.Model(&Stock{}).Where("sku = ? AND units > 0", sku).Update("units", gorm.Expr("units - 1"))
	if res.Error == nil && res.RowsAffected == 0 {
		return errors.New("sold out")
	}
	return res.Error
}

func newCommandBus(pub message.Publisher) (*wcqrs.CommandBus, error) {
	return wcqrs.NewCommandBusWithConfig(pub, wcqrs.CommandBusConfig{
		Marshaler: marshaler, Logger: logger,
		GeneratePublishTopic: func(p wcqrs.CommandBusGeneratePublishTopicParams) (string, error) {
			return "commands." + p.CommandName, nil
		},
		OnSend: func(p wcqrs.CommandBusOnSendParams) error {
			stamp(p.Message, p.CommandName, "command", p.Command)
			return nil
		},
	})
}

func newEventBus(pub message.Publisher) (*wcqrs.EventBus, error) {
	return wcqrs.NewEventBusWithConfig(pub, wcqrs.EventBusConfig{
		Marshaler: marshaler, Logger: logger,
		GeneratePublishTopic: func(p wcqrs.GenerateEventPublishTopicParams) (string, error) {
			return "events." + p.EventName, nil
		},
		OnPublish: func(p wcqrs.OnEventSendParams) error {
			stamp(p.Message, p.EventName, "event", p.Event)
			return nil
		},
	})
}

// listen registers the handlers with a router.
func listen(router *message.Router, sub message.Subscriber, h Handlers) error {
	commands, err := wcqrs.NewCommandProcessorWithConfig(router, wcqrs.CommandProcessorConfig{
		Marshaler: marshaler, Logger: logger,
		GenerateSubscribeTopic: func(p wcqrs.CommandProcessorGenerateSubscribeTopicParams) (string, error) {
			return "commands." + p.CommandName, nil
		},
		SubscriberConstructor: func(wcqrs.CommandProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return sub, nil
		},
	})
	if err != nil {
		return err
	}
	events, err := wcqrs.NewEventProcessorWithConfig(router, wcqrs.EventProcessorConfig{
		Marshaler: marshaler, Logger: logger,
		GenerateSubscribeTopic: func(p wcqrs.EventProcessorGenerateSubscribeTopicParams) (string, error) {
			return "events." + p.EventName, nil
		},
		SubscriberConstructor: func(wcqrs.EventProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return sub, nil
		},
	})
	if err != nil {
		return err
	}
	return errors.Join(
		commands.AddHandlers(wcqrs.NewCommandHandler("place", h.Place)),
		events.AddHandlers(wcqrs.NewEventHandler("reserve", h.Reserve)))
}

func newRouter() (*message.Router, error) {
	return message.NewRouter(message.RouterConfig{CloseTimeout: 10 * time.Second}, logger)
}

// Before is the project as Watermill's documentation shows it.
func Before(db *gorm.DB, pub message.Publisher, sub message.Subscriber) (*App, error) {
	router, err := newRouter()
	if err != nil {
		return nil, err
	}
	commands, err1 := newCommandBus(pub)
	events, err2 := newEventBus(pub)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	err = listen(router, sub, Handlers{
		Place: func(ctx context.Context, c *PlaceOrder) error {
			if err := db.WithContext(ctx).Create(&Order{c.ID, c.SKU}).Error; err != nil {
				return err
			}
			return events.Publish(ctx, OrderPlaced{c.ID, c.SKU}) // a crash before this line loses the event
		},
		Reserve: func(ctx context.Context, e *OrderPlaced) error {
			return reserve(db.WithContext(ctx), e.SKU) // a crash after this line reserves twice
		},
	})
	return &App{Send: commands.Send, parts: []part{router.Run}}, err
}
