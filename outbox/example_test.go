package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/glebarez/sqlite"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// printer stands for a broker.
type printer struct{}

func (printer) Publish(topic string, msgs ...*message.Message) error {
	for _, m := range msgs {
		fmt.Printf("%s: %s\n", topic, m.Payload)
	}
	return nil
}

func (printer) Close() error { return nil }

type order struct {
	ID    string `gorm:"primaryKey"`
	Total int
}

// openExample opens a database in memory with the outbox and a table of orders.
func openExample(ctx context.Context) (*gorm.DB, *uow.UnitOfWork, error) {
	db, err := gorm.Open(sqlite.Open(":memory:"), &gorm.Config{})
	if err != nil {
		return nil, nil, err
	}
	unit, err := uow.New(db, uow.Config{})
	if err != nil {
		return nil, nil, err
	}
	return db, unit, errors.Join(outbox.Migrate(ctx, db), db.AutoMigrate(&order{}))
}

// closeExample closes the database.
func closeExample(db *gorm.DB) {
	if pool, err := db.DB(); err == nil {
		_ = pool.Close()
	}
}

// An order and the message that tells of it are committed together, or not at all.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	db, unit, err := openExample(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer closeExample(db)
	box, err := outbox.New(db, outbox.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	relay, err := outbox.NewRelay(box, printer{}, outbox.RelayConfig{UnitOfWork: unit})
	if err != nil {
		fmt.Println(err)
		return
	}
	var running sync.WaitGroup
	running.Go(func() { _ = relay.Run(ctx) })

	place := func(id string, total int) error {
		return unit.Do(ctx, func(ctx context.Context) error {
			if err := uow.DB(ctx).Create(&order{ID: id, Total: total}).Error; err != nil {
				return err
			}
			msg := message.NewMessage("placed-"+id, []byte("order "+id+" was placed"))
			msg.Metadata.Set(outbox.HeaderKey, id)
			msg.SetContext(ctx)
			if err := box.Publish("orders", msg); err != nil {
				return err
			}
			if total > 1000 {
				return errors.New("too dear")
			}
			return nil
		})
	}
	for id, total := range map[string]int{"a": 20, "b": 2000} {
		if err := place(id, total); err != nil {
			fmt.Printf("order %s: %v\n", id, err)
		}
	}
	if err := relay.Drain(ctx); err != nil {
		fmt.Println(err)
	}
	cancel()
	running.Wait()
	// Unordered output:
	// order b: too dear
	// orders: order a was placed
}
