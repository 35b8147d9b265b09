// Package query is the read side: typed questions, answered without a write transaction.
//
// # The problem
//
// Commands change things, run in shared transactions and may be answered from a stored result.
// Questions need none of that, and mixing the two makes both slow. So questions have types and
// a registry of their own: a query cannot be executed as a command, it does not compile.
//
// # Wiring
//
// Embed [Returns] in a query, register its handler in a [Mux], and ask:
//
//	type GetOrder struct {
//		query.Returns[OrderView]
//		ID string
//	}
//
//	reads := query.NewMux()
//	query.Handle(reads, func(ctx context.Context, q GetOrder) (OrderView, error) { … })
//	view, err := query.Ask(ctx, reads, GetOrder{ID: "o-1"})
//
// Handlers are found by type in a map. Behaviors (authorization, caching, tracing) wrap all of
// them and see the query as [cqrs.Delivery.Message].
//
// # What is guaranteed
//
// The handler runs once per Ask, or as often as a behavior calls it, on the caller's goroutine and
// context unless a behavior chooses others, and its error comes back as it is, so errors.Is and
// errors.As work.
//
// # What is not
//
// A read model may lag behind what was committed a moment ago. Nothing opens a transaction: a
// handler that needs one snapshot of several tables opens it itself.
//
// # When it fails
//
//	no handler for the query          [cqrs.ErrNoHandler], naming its type
//	two handlers for one query        [Mux.Validate] reports it, and so does every Ask of that type
//	a behavior is nil                 [Mux.Validate] reports it, and so does every Ask
//	a behavior does not call next     [ErrUnanswered], unless it returned an error
package query
