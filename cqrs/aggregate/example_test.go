package aggregate_test

import (
	"errors"
	"fmt"

	"github.com/surge-go/surge/cqrs/aggregate"
)

type order struct {
	aggregate.Root
	ID        string
	Confirmed bool
}

type orderPlaced struct{ ID string }

type orderConfirmed struct{ ID string }

var errConfirmed = errors.New("the order is confirmed already")

func place(id string) *order {
	o := &order{ID: id}
	o.Record(orderPlaced{id})
	return o
}

func (o *order) confirm() error {
	if o.Confirmed {
		return errConfirmed
	}
	o.Confirmed = true
	o.Record(orderConfirmed{o.ID})
	return nil
}

// An aggregate keeps its rules and records what happened; whoever saves it publishes that.
func Example() {
	o := place("o-1")
	fmt.Println(o.confirm())
	fmt.Println(o.confirm())
	for _, e := range o.Recorded() {
		fmt.Printf("%T\n", e)
	}
	// Output:
	// <nil>
	// the order is confirmed already
	// aggregate_test.orderPlaced
	// aggregate_test.orderConfirmed
}
