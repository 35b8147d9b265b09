// Package cqrs sends commands and events, and runs their handlers, many of them in one transaction.
//
// # The problem
//
// A handler that must not lose or double anything needs a transaction: for what it writes, for the messages it
// sends (an outbox), for the mark that its message was handled (an inbox). A durable commit costs a disk flush, so a
// transaction per message limits a service to a few hundred messages a second, whatever its code looks like. Handlers
// that take batches are fast, and hard to write: one bad message must not harm its neighbors.
//
// Here people write handlers for one message, and the runtime runs many of them in one transaction. A message that
// fails is undone alone. What NServiceBus, MassTransit and Wolverine are for .NET, on Watermill's interfaces.
//
// # The parts
//
//   - A [Catalog] names message types, once, for all services: [Command], [Event], [Upcast].
//   - A [Sender] sends and publishes them through any Watermill publisher; over an outbox they leave with the commit.
//   - A [Processor] is a consumer group and one registry of handlers. The same handler serves messages, [Execute]
//     (in this process, group-committed across concurrent callers), [Call] (another service) and sagas.
//
// The ports in this package ([UnitOfWork], [Inbox], [Keys], [Parking], [DeadLetters], [Crashes]) are small, and
// satisfied by the packages uow, idempotency and gormstore. Nothing here knows a database or a broker. The package
// cqrs/host wires everything with defaults.
//
// # How messages run
//
// Messages go to one of [ProcessorConfig].Lanes by the hash of their key, and run in their order per topic and key.
// A lane takes what is there, up to MaxBatch, and never waits when it is alone. Then, in one transaction:
//
//  1. the ids of all messages are claimed in the inbox, one statement
//  2. what belongs to a parked key goes behind it, one statement
//  3. locks that messages declare ([Locks]) are taken, sorted
//  4. handlers run, each in a part of its own that is undone alone; batch handlers see as many messages as possible
//  5. replies and messages are written to the outbox, failures to the parked messages or dead letters
//
// After the commit the messages are acknowledged. A unit of work may run all this more than once before it commits,
// so a handler must be safe to run again: it has no effect outside the transaction. What has one belongs in
// cqrs/effect. A handler does not wait for other services either; see [ErrInTransaction].
//
// # What a handler returns
//
//   - A result or nil: committed, answered.
//   - A [Rejection]: "no" is the answer. What the handler wrote is undone, the answer commits with the neighbors.
//   - [ErrDeferred]: committed; somebody calls [Reply] later. [ErrNotExecuted]: committed, and answered so.
//   - [Later], or an error with a method RetryAfter() time.Duration: undone, tried again after that time, not counted.
//     The latter, as an open circuit breaker returns it, also pauses the type, so that the backlog does not run into
//     it; other types go on. It may ask for an hour at most.
//   - Anything else: undone, parked with its key's successors, and tried again with backoff ([Retry]). A key in
//     backoff does not hold up its partition, nor the acknowledgement of its messages.
//
// After the last attempt the message is a dead letter. Its key waits until the letter is replayed or discarded
// ([Processor.Replay], [Processor.Discard]), unless the handler says [SkipDead].
//
// # What is guaranteed
//
// With a unit of work, an inbox and an outbox: each message's effects in this database happen once, together with the
// messages it sends, or not at all, although buses deliver more than once. Messages of one topic and key run one after
// the other, in the order in which the bus delivers them, through failures and restarts too. Only one that comes back
// from the store while nothing of its key waits there, since its time has come (At) or it is replayed, may run beside
// one that the bus has just delivered to another process.
//
// # What is not
//
// Without a unit of work a failed handler's effects stay. Without an inbox, messages that come twice run twice. Order
// between topics, and between keys, is not kept. A [Call] whose context ends has an unknown outcome. A handler that
// ignores its context is left behind, which is all that can be done to a goroutine: nothing of its transaction commits
// any more, but what it does elsewhere it goes on doing. In [Execute] it keeps its caller waiting.
//
// # When something fails
//
//	failure                              what happens
//	handler refuses ([Rejection])        undone, reply "rejected"; where nobody waits: dead letter, key goes on
//	handler fails, panics, calls Goexit  undone alone; parked with its key, retried with backoff, then dead letter
//	handler overstays HandlerTimeout     its context ends; the error it then returns is a failure
//	handler does not return at all       left behind, its transaction closed: [ErrHung], a failure like others; its key
//	                                     waits until it returns, its lane goes on; [Stats].Hung counts them
//	batch handler does not return        the same, but its keys do not wait: its messages run one by one beside it,
//	                                     until the one is found that it hangs on
//	batch handler fails                  undone; its messages run one by one
//	batch handler fails one item         undone; runs again without the item and what is behind it
//	transaction does not commit          messages run one by one; one whose own does not commit counts as failed
//	store is away                        nothing is acknowledged or counted; tried again until it is back. A message
//	                                     whose own transaction is lost with the connection counts as failed the 6th time
//	payload cannot be decoded            dead letter at once
//	unknown type                         an event is counted and skipped; a command is a dead letter at once
//	known type, no handler here          counted and skipped
//	message of a newer version           parked until a deploy that knows it; not counted
//	message older than MaxAge            dead letter, never run: the inbox may have forgotten it
//	context.Canceled                     tried again; never counted
//	process dies                         unacknowledged messages come again; the inbox knows which have run
//	message kills the process            noted before it runs from then on ([Crashes]); dead letter after its attempts
//	topic outlives the inbox             Run refuses: [ErrHorizon]
//	bus has lost the group's position    Run refuses if the inbox has a past
//	Run's context ends                   intake stops, batches finish and commit, messages are acknowledged; what is not
//	                                     done within Grace is given back, and a hung handler is named by Run's [ErrHung]
//
// # How fast
//
// A lane is one transaction at a time, so with a unit of work few lanes with full batches are fastest (2 to 8). Without
// one, handlers that wait for something run one after the other in their lane: Lanes is then the number of handlers at
// once, and 64 or more make sense, as goroutines do; keys still keep their order.
//
// # Without a database
//
// The zero [ProcessorConfig] has no transaction: Execute is a typed dispatcher of about 100 ns, and messages are
// acknowledged after their handler and retried from memory, unacknowledged. So it also serves as a CQRS component
// over any Watermill subscriber.
package cqrs
