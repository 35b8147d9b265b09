package saga_test

import (
	"errors"
	"fmt"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga"
)

type (
	Booking struct{ ID, Room, Why string }

	ReserveRoom struct {
		cqrs.Returns[RoomReserved]
		ID string
	}
	RoomReserved struct{ Room string }
	ReleaseRoom  struct{ ID string }
	ChargeGuest  struct {
		cqrs.Returns[GuestCharged]
		ID string
	}
	GuestCharged struct{}
)

func (b *Booking) reserve() ReserveRoom        { return ReserveRoom{ID: b.ID} }
func (b *Booking) reserved(r RoomReserved)     { b.Room = r.Room }
func (b *Booking) release() ReleaseRoom        { return ReleaseRoom{b.ID} }
func (b *Booking) charge() ChargeGuest         { return ChargeGuest{ID: b.ID} }
func (b *Booking) declined(no *cqrs.Rejection) { b.Why = no.Code }

// A room is reserved before the guest is charged; when that fails for certain, the room is released.
func ExampleDefine() {
	book, err := saga.Define("book-room", 1,
		saga.Step[Booking, ReserveRoom, RoomReserved]{
			Name: "reserve", Do: (*Booking).reserve, Done: (*Booking).reserved,
			Undo: saga.Command((*Booking).release),
		},
		saga.Step[Booking, ChargeGuest, GuestCharged]{
			Name: "charge", Do: (*Booking).charge, Rejected: (*Booking).declined, Pivot: true,
		},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(book.Name(), "version", book.Version())
	fmt.Print(book.Mermaid())
	// Output:
	// book-room version 1
	// flowchart TD
	//   begin(["book-room v1"])
	//   n1["reserve<br>ReserveRoom"]
	//   begin --> n1
	//   n1 -. undo .-> n1u["ReleaseRoom"]
	//   n2["charge<br>ChargeGuest"]:::pivot
	//   n1 --> n2
	//   finish([completed])
	//   n2 --> finish
	//   classDef pivot stroke-width:4px
}

// What cannot work is refused when the program starts, all faults at once.
func ExampleDefine_refused() {
	_, err := saga.Define("book-room", 1,
		saga.Step[Booking, ReserveRoom, RoomReserved]{Name: "reserve", Do: (*Booking).reserve},
		saga.Step[Booking, ChargeGuest, GuestCharged]{
			Name: "charge", Do: (*Booking).charge, Pivot: true, Undo: saga.Command((*Booking).release),
		},
	)
	fmt.Println(errors.Is(err, saga.ErrDefinition))
	fmt.Println(err)
	// Output:
	// true
	// saga: faulty definition: book-room: reserve: a step before the pivot needs an Undo (saga.Nothing if there is nothing to undo)
	// saga: faulty definition: book-room: charge: a pivot has no Undo: it is settled, never undone
}
