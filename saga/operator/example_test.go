package operator_test

import (
	"context"
	"fmt"
	"log"
	"sync/atomic"
	"time"

	"github.com/glebarez/sqlite"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/host"
	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/operator"
	"gorm.io/gorm"
)

type Trip struct{ ID string }

type none struct{}

type BookSeat struct {
	cqrs.Returns[none]
	ID string
}

type PrintTicket struct {
	cqrs.Returns[none]
	ID string
}

func (t *Trip) book() BookSeat     { return BookSeat{ID: t.ID} }
func (t *Trip) print() PrintTicket { return PrintTicket{ID: t.ID} }

var trip = saga.MustDefine("trip", 1,
	saga.Step[Trip, BookSeat, none]{Name: "book-seat", Do: (*Trip).book, Pivot: true},
	saga.Step[Trip, PrintTicket, none]{Name: "print-ticket", Do: (*Trip).print},
)

// A step behind the pivot was refused, so the saga is parked. Somebody mends the cause, and has it try again.
func Example() {
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	db, err := gorm.Open(sqlite.Open(":memory:"), &gorm.Config{})
	check(err)
	svc, err := host.Open(ctx, "trips", db, cqrs.NewCatalog(
		cqrs.Command[BookSeat]{Name: "seats.book", Key: func(c BookSeat) string { return c.ID }},
		cqrs.Command[PrintTicket]{Name: "tickets.print", Key: func(c PrintTicket) string { return c.ID }},
	), host.Config{Migrations: []func(context.Context, *gorm.DB) error{saga.Migrate}})
	check(err)
	engine, err := saga.NewEngine(svc.Processor, saga.EngineConfig{})
	check(err)
	trips := saga.Register(engine, trip)
	svc.Add(engine)

	var paper atomic.Bool
	saga.Participant(svc.Processor, func(context.Context, BookSeat) (none, error) { return none{}, nil }, saga.NoUndo)
	saga.Participant(svc.Processor, func(context.Context, PrintTicket) (none, error) {
		if !paper.Load() {
			return none{}, cqrs.Reject("no_paper", nil)
		}
		return none{}, nil
	}, saga.NoUndo)

	op := operator.New(engine)
	svc.Add(ann(func() {
		await(ctx, trips, saga.Parked)
		for s, err := range op.List(ctx, saga.Filter{Type: "trip"}) {
			check(err)
			fmt.Println(s.Key, "waits at", s.Step)
		}
		paper.Store(true)
		fmt.Println(op.Retry(ctx, saga.Filter{Type: "trip"}, operator.By{Actor: "ann", Reason: "paper refilled"}))
		await(ctx, trips, saga.Completed)
		stop()
	}))
	check(svc.Work.Do(ctx, func(ctx context.Context) error { return trips.Start(ctx, "t-1", Trip{"t-1"}) }))
	check(svc.Run(ctx))
	pool, err := db.DB()
	check(err)
	check(pool.Close())
	// Output:
	// t-1 is parked
	// t-1 waits at print-ticket
	// 1 <nil>
	// t-1 is completed
}

// ann is a part that does something once.
type ann func()

func (a ann) Run(context.Context) error { a(); return nil }

// await waits until the trip has come so far.
func await(ctx context.Context, trips *saga.Saga[Trip], status saga.Status) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		t, err := trips.Get(ctx, "t-1")
		check(err)
		if t.Status == status {
			fmt.Println(t.Key, "is", status)
			return
		}
		<-tick.C
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
