// Package host wires one service from the other packages, with defaults, and owns its life.
//
// # The problem
//
// A service on this module has a unit of work, an outbox with its relay, stores for keys, inbox, parked messages,
// dead letters and effects, a processor, and a server. They have to be migrated, connected, started in an order
// that loses nothing and stopped in one that drains. That is the same sixty lines in every service; here they are
// once. The package uses nothing that is not public: examples/byhand does the same without it.
//
// # Wiring
//
//	svc, err := host.Open(ctx, "orders", db, catalog, host.Config{})
//	cqrs.Handle(svc.Processor, placeOrder)
//	svc.Add(host.HTTP(":8080", mux))
//	err = svc.Run(ctx)
//
// [Open] checks and migrates and starts nothing: register handlers after it, [cqrs.Execute] works right away.
// Without a [Config.Transport] the service has an in-process bus of its own. Services that share a process and
// a transport run together, by [Run], or have all been declared ([Service.Declare]) before the first of them runs.
//
// # Start and stop
//
// Groups are declared, then consumer groups start, then relays, then parts in the order in which they were added.
// When the context ends, or something fails, each stage is given [Config.Grace] and then left behind:
//
//	over a broker       parts in reverse, groups (drain, commit, ack), relay (what they sent leaves too)
//	over localbus       parts in reverse, relay, groups: there a publish ends only when the groups have acked
//
// # What is guaranteed
//
// What was committed is in the database, whatever happens to the process: messages leave after the next start.
// [Service.Kill] exists to prove it in tests.
//
// # Failures
//
//	the schema is missing, a name is doubled   Open or Run return it, with everything else that is wrong
//	a part or a group fails, or panics         all stop in order; Run returns the error
//	something does not stop within Grace       Run returns [ErrGrace], naming it; its goroutine is left behind
//	the database or the broker is down         nothing fails; messages wait, [Service.Ready] says why
package host
