// Package aggregate holds the building blocks of a domain model: a root that records what
// happened to it, and the port through which whole aggregates are loaded and saved.
//
// # The problem
//
// A domain model must be able to say "the order was confirmed" without knowing who wants to
// hear it, and the row and the message must not come apart. So the aggregate only records its
// events; the repository that saves it publishes them in the same transaction.
//
// # Wiring
//
// Embed [Root], change state in methods that keep the aggregate's rules, and record an event
// for each change that others may care about:
//
//	type Order struct {
//		aggregate.Root
//		ID     string
//		Status Status
//	}
//
//	// Place is the factory: the only way to make a new order.
//	func Place(id string) *Order {
//		o := &Order{ID: id, Status: Placed}
//		o.Record(OrderPlaced{ID: id})
//		return o
//	}
//
//	func (o *Order) Confirm() error {
//		if o.Status != Placed {
//			return ErrNotPlaced
//		}
//		o.Status = Confirmed
//		o.Record(OrderConfirmed{ID: o.ID})
//		return nil
//	}
//
// The application layer depends on a [Repository]; cqrs/gormstore implements it on a database
// and cqrs/cqrstest in memory. The package imports nothing but the standard library, so that
// a domain model does not either.
//
// # What is guaranteed
//
// A repository saves an aggregate only if nobody else saved it since it was loaded, and its
// events leave if and only if that save commits.
//
// # What is not
//
// An aggregate is not safe for concurrent use, and it does not survive a transaction that was
// undone: its version and its recorded events may have moved on. Load it inside the function
// that runs in the transaction, because that function may run more than once.
//
// # When it fails
//
//	nobody has saved this ID              [ErrNotFound]
//	a new aggregate, but the ID is taken  [ErrExists]
//	someone saved it in between           [ErrConflict]: load it and decide again
package aggregate
