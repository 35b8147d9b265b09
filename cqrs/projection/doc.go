// Package projection builds read models from events, and builds them anew beside the live one.
//
// # The problem
//
// A query wants its answer in one row, in its own shape; the writing side keeps aggregates. So something follows the
// events and keeps tables for queries: a projection, as in Marten, Axon or EventStoreDB. It has to survive crashes,
// rebalances and messages that come twice without losing or doubling a line, tell its readers how old it is, and
// change its shape without a night of downtime.
//
// # Applying
//
//	p, err := projection.New("order-view", catalog, work, store, bus, projection.Config{
//		Version: 1, Inbox: inbox, Source: projection.FromTopics(), Create: create, Drop: drop,
//	})
//	projection.On(p, func(ctx context.Context, events []OrderPlaced) error { … uow.DB(ctx) … })
//	err = p.Run(ctx) // in every process; a part of a cqrs/host service
//
// [On] gets events of one type in batches, [OnEvents] with their envelopes, [OnMixed] several types in their order.
// Each partition has a lane. A batch is one part of a transaction of the unit of work, which it may share with other
// lanes, handlers and requests of the process. In it the lane
//
//  1. makes sure, by a shared lock, that its generation is still to be fed
//  2. claims the messages' IDs in the inbox, so that a message that was published twice counts once
//  3. moves the partition's checkpoint, by compare-and-set on its previous position
//  4. calls the apply functions
//
// The checkpoint is beside the model, so that is where a partition goes on when it is assigned, whatever the bus has
// committed; a process that does not know yet that it lost a partition loses the compare-and-set.
//
// # What is guaranteed
//
// On a bus with positions (kafkabus), at every commit the live model is what the apply functions make of a gapless
// prefix of each partition, each message once, in the partition's order; with Config.KeyOrder in the order of each
// key. That holds through crashes, rebalances, late duplicates, rebuilds and swaps. On a bus without positions
// (localbus) every message that is delivered is applied once, in the order of its key.
//
// # What is not
//
// Order between partitions and topics. Order across a late duplicate: it is skipped where it comes second. Effects
// outside the database, which may run more than once, also for a batch that is undone. Without an inbox
// (Config.Guarded), duplicates beyond redelivery are up to the apply functions. The inbox forgets after its retention.
//
// An event that cannot be applied holds up its partition until it can, because a model with a hole looks like one
// without. Config.DeadLetters chooses otherwise. What stands before it is applied; other partitions go on;
// [Projection.Lag] shows it.
//
// # Reading
//
// Each build of the model is a generation with tables of its own, [Table](ctx, "orders"), or with its number in each
// row, [GenerationOf]. [Projection.Live] gives queries the context of the live one:
//
//	ctx, err := p.Live(ctx)
//	db.WithContext(ctx).Table(projection.Table(ctx, "orders")).Where(…).Find(&orders)
//
// [Projection.Lag] says, per partition, the last position, when its event occurred, and how many messages and how much
// time it is behind. [Projection.Wait] is for who has just written: it waits, for a bound, until the live model has
// applied a message ([Message], whose ID cqrs.Collect tells) or what is at a place ([At]). Within the process it is
// woken; across processes it asks every Config.Poll. It ends in time with a [*StaleError], which says how far the
// model is, and the caller decides whether an older answer will do.
//
// # Rebuilding
//
// [Projection.Rebuild], or a greater Config.Version, begins a shadow: a new generation with its own tables, checkpoints
// and consumer group, while the live one is fed and read. When the shadow is level, one transaction makes it live:
// it excludes whoever feeds either of the two and compares their checkpoints. Under constant traffic the live model is
// held for a moment, Config.HoldFor at most, so that the shadow gets level. Readers see a model that never goes back.
// The old generation is dropped Config.DropAfter later, and so is a shadow that is given up ([Projection.Abandon]).
//
// A crash at any point leaves a rebuild that goes on with the next process. Of two that begin one, one wins, and all
// processes of its version feed it.
//
// A rebuild needs a [Source], else it is refused: [FromTopics], topics that have kept everything since their first
// message; [FromArchive], an archive such as the outbox's, from which the topics take over; [FromSnapshot], one by the
// owner of the events, with its position. The first generation is built the same way; without a source it begins with
// what the bus still has.
//
// # Versions
//
// Raise Config.Version when tables or apply functions change. A program that starts with a greater version than the
// live generation's has a shadow built by its own code; programs of the old version go on feeding the live one until
// the swap and are idle after it. [Projection.Live] says which version it gives out, so a new program can tell that it
// still reads tables of the old one. A program whose version is too small is refused ([ErrSuperseded]): to go back,
// deploy the old code under a new number. Without a Source a new version is refused too ([ErrNoSource]).
//
// # On a bus without positions
//
// Call [Projection.Declare] before anything is published, as localbus's Publish waits for groups that it knows.
// Shadow and live model are compared by the messages that the live one has applied in this process since the rebuild
// began, so run them in one process, which is what such a bus is for. Only [FromArchive] and, with version guards,
// [FromSnapshot] can rebuild: there is no history.
//
// # When something fails
//
//	an apply function fails or panics    the batch is undone and tried in halves; at last one event, with backoff
//	an apply function does not return    its partition stands still, and Run does not return either
//	Create, Drop or a source panics      it is tried again
//	an event cannot be decoded           like that; a newer version of its type waits for the deploy that knows it
//	a transaction's outcome is unknown   the checkpoint is read again: it tells
//	another process has the partition    the compare-and-set fails, nothing is written
//	the process dies                     the next one goes on at the checkpoints
//	unseen messages are gone             Run returns [ErrHistoryLost]; a shadow is given up
//	the topic's beginning is gone        FromTopics is refused with [ErrNoSource]
//	loading an archive stops             goes on at its checkpoint
//	loading a snapshot stops             after Config.Takeover another generation is begun
//	the store is away                    tried again; nothing is acknowledged
package projection
