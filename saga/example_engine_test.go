package saga_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/glebarez/sqlite"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/host"
	"github.com/surge-go/surge/saga"
	"gorm.io/gorm"
)

type RoomWanted struct{ ID string }

var bookingMessages = cqrs.NewCatalog(
	cqrs.Event[RoomWanted]{Name: "web.room-wanted", Key: func(m RoomWanted) string { return m.ID }},
	cqrs.Command[ReserveRoom]{Name: "rooms.reserve", Key: func(m ReserveRoom) string { return m.ID }},
	cqrs.Command[ReleaseRoom]{Name: "rooms.release", Key: func(m ReleaseRoom) string { return m.ID }},
	cqrs.Command[ChargeGuest]{Name: "guests.charge", Key: func(m ChargeGuest) string { return m.ID }},
)

var bookRoom = saga.MustDefine("book-room", 1,
	saga.Step[Booking, ReserveRoom, RoomReserved]{
		Name: "reserve", Do: (*Booking).reserve, Done: (*Booking).reserved,
		Undo: saga.Command((*Booking).release),
	},
	saga.Step[Booking, ChargeGuest, GuestCharged]{
		Name: "charge", Do: (*Booking).charge, Rejected: (*Booking).declined, Pivot: true,
	},
)

// Engine and participants may live in one service, as here, or in as many as you like.
func ExampleNewEngine() {
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	db, err := gorm.Open(sqlite.Open(":memory:"), &gorm.Config{})
	check(err)
	pool, err := db.DB()
	check(err)
	defer pool.Close()
	pool.SetMaxOpenConns(1)
	svc, err := host.Open(ctx, "hotel", db, bookingMessages, host.Config{
		Migrations: []func(context.Context, *gorm.DB) error{saga.Migrate},
	})
	check(err)

	engine, err := saga.NewEngine(svc.Processor, saga.EngineConfig{})
	check(err)
	bookings := saga.Register(engine, bookRoom)
	saga.StartOn(bookings, func(e RoomWanted) (string, Booking) { return e.ID, Booking{ID: e.ID} })
	svc.Add(engine)

	saga.Participant(svc.Processor,
		func(context.Context, ReserveRoom) (RoomReserved, error) { return RoomReserved{Room: "12"}, nil },
		func(_ context.Context, c ReleaseRoom) error { fmt.Println("released", c.ID); return nil })
	saga.Participant(svc.Processor,
		func(context.Context, ChargeGuest) (GuestCharged, error) {
			return GuestCharged{}, cqrs.Reject("declined", nil)
		}, saga.NoUndo)

	check(svc.Work.Do(ctx, func(ctx context.Context) error { return svc.Sender.Publish(ctx, RoomWanted{"b-1"}) }))
	svc.Add(until(func() bool {
		b, err := bookings.Get(ctx, "b-1")
		if err != nil || !b.Status.Ended() {
			return false
		}
		fmt.Println(b.Status, b.State.Room, b.State.Why)
		stop()
		return true
	}))
	check(svc.Run(ctx))
	// Output:
	// released b-1
	// compensated 12 declined
}

// until is a part that looks for the end.
type until func() bool

func (u until) Run(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !u() {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	return nil
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
