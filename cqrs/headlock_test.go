package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox/uow"
)

// One process runs the head of a queue, another one has a fresh message of that queue beside some whose handler changes
// the same row as the head's: both lock the head before the row.
func TestRule03_HeadsAreLockedBeforeTheRowsOfHandlers(t *testing.T) {
	t.Parallel()
	db := onPostgres(t)
	must(t, errors.Join(idempotency.Migrate(t.Context(), db), gormstore.Migrate(t.Context(), db),
		db.AutoMigrate(&line{}), db.Create(&line{Key: "stock"}).Error))
	one, err := uow.New(db, uow.Config{})
	must(t, err)
	two, err := uow.New(db, uow.Config{})
	must(t, err)
	must(t, one.Do(t.Context(), func(ctx context.Context) error {
		return gormstore.NewParking().Append(ctx, []*cqrs.Parked{{Record: cqrs.Record{
			Group: "shop", ID: "head", Queue: "shop.commands|k", Topic: "shop.commands", Type: "shop.note", Key: "k",
			Payload: []byte(`{"Text":"head"}`), Metadata: noteMsg("head", "k", "head").Metadata,
		}}})
	}))
	takeStock := func(ctx context.Context) error {
		return uow.DB(ctx).Model(&line{}).Where("key=?", "stock").Update("text", "taken").Error
	}
	hasRow, wantsRow := make(chan struct{}, 99), make(chan struct{}, 99)
	runOn(t, newDB(), one, func(ctx context.Context, _ note) error {
		err := takeStock(ctx)
		hasRow <- struct{}{}
		select {
		case <-wantsRow:
		case <-time.After(time.Second): // the other one waits for the head
		}
		return err
	})
	<-hasRow
	bus, begun, release := newDB(), make(chan struct{}, 99), make(chan struct{})
	runOn(t, bus, two, func(ctx context.Context, n note) error {
		if n.Text == "first" {
			begun <- struct{}{}
			<-release
			return nil
		}
		wantsRow <- struct{}{}
		return takeStock(ctx)
	})
	all := []*message.Message{noteMsg("first", "first", "first"), noteMsg("fresh", "k", "fresh")}
	for i := range 5 {
		all = append(all, noteMsg(fmt.Sprint(i), fmt.Sprint("o", i), "other"))
	}
	bus.deliver("shop.commands", all[0])
	<-begun
	bus.deliver("shop.commands", all[1:]...)
	bus.drained("shop.commands")
	close(release) // the rest is one batch
	for _, m := range all {
		<-m.Acked()
	}
	if n := one.Stats().Retries + two.Stats().Retries; n > 0 {
		t.Errorf("%d transactions ran again after a deadlock", n)
	}
}

// runOn runs a processor of the group, as a process of its own would, until the test ends.
func runOn(t *testing.T, bus *db, work *uow.UnitOfWork, handle func(context.Context, note) error) {
	t.Helper()
	s := newService(t, bus, catalog(), cqrs.ProcessorConfig{
		Subscribe: bus.subscriber, UnitOfWork: work, InTransaction: uow.In, Lanes: 1,
		Inbox: idempotency.NewInbox(idempotency.InboxConfig{}), Parking: gormstore.NewParking(),
	})
	cqrs.On(s.p, handle)
	s.run()
	<-s.p.Running()
}

// drained waits until all that was delivered on a topic is taken.
func (b *db) drained(topic string) {
	waiting := func() (n int) {
		b.busMu.Lock()
		defer b.busMu.Unlock()
		for _, ch := range b.subs[topic] {
			n += len(ch)
		}
		return n
	}
	for waiting() > 0 {
		<-time.After(time.Millisecond)
	}
}
