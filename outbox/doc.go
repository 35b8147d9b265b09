// Package outbox makes messages leave with the transaction that caused them: the transactional outbox pattern
// (Richardson, Microservices Patterns, 2018) for Watermill and GORM, with order, on PostgreSQL, MySQL, MariaDB and
// SQLite.
//
// # The problem
//
// A handler that writes to its database and publishes to a broker has no transaction around both. If it publishes
// first it may tell of what never happened; if it commits first a crash loses the message. Here the message is a row
// of the same transaction, and a [Relay] moves committed rows to the broker.
//
// # The guarantee
//
// A message of a unit of work that commits is published at least once; one of a unit of work, or a part of it,
// that is undone never is. Messages of one topic and key are published in the order of their commits, if writers hold
// a lock on what the key stands for while they publish: they changed its row, as handlers of one aggregate do.
//
// # What is not guaranteed
//
// Exactly once: a relay that crashes after Publish and before its delete publishes again, and a relay that was
// asleep while another took its leases may publish once more, late. The first appearances keep their order.
// Consumers need an inbox or a version guard. Between keys and between topics there is no order.
//
// # Wiring
//
//	box, err := outbox.New(db, outbox.Config{})
//	relay, err := outbox.NewRelay(box, broker, outbox.RelayConfig{UnitOfWork: unit}) // used on SQLite
//	go relay.Run(ctx)
//
//	unit.Do(ctx, func(ctx context.Context) error {
//		uow.DB(ctx).Create(&order)
//		msg.SetContext(ctx)
//		return box.Publish("orders", msg) // a row, written by one statement just before the commit
//	})
//
// [Outbox] is a plain message.Publisher, so Watermill's own CommandBus and EventBus commit and roll back with the
// unit of work whose context they are given. The key is the metadata [HeaderKey]; [HeaderDeliverAt] schedules.
//
// # How the relay works
//
// The table's primary key is a number that grows. A relay reads what comes after its position, hands each topic's
// messages to workers of that topic, each of which publishes the keys of its own shards, many messages by one call at a
// time ([RelayConfig.Concurrency]), and all of them never more than [RelayConfig.Batch] ahead of the deletes; what was
// acknowledged is deleted by exact key. After a failure one worker alone goes on, until messages pass again.
//
// A transaction that took its number early may commit late. On PostgreSQL the relay knows which transactions were open
// when it passed, and looks back once one of them has ended, as far as its numbers can reach; on MySQL it looks back
// over [RelayConfig.MaxTransaction]. This decides where it looks, never whether it delivers. A topic that is slow,
// fails or hangs falls behind and is read by a scan of its own; the others do not notice, and memory stays bounded by
// [RelayConfig.Buffer] messages a topic.
//
// Relays share [Shards] virtual shards, a hash of the key, by leases in the database; each shard has one owner, and
// its epoch fences what an owner that overslept still wants to delete.
//
// A relay is woken by commits of its own process and otherwise polls, 10 ms after the last message and less and
// less often, at least every [RelayConfig.MaxPoll]. On PostgreSQL commits are also notified to other processes, in
// statements of their own, at most 20 a second; package outbox/pglisten listens (see [RelayConfig.Listen]). Polling
// finds everything; what wakes only saves time.
//
// # What is kept
//
// A published message is deleted, or moves to an archive for [RelayConfig.Archive], which is dropped day by day, and
// from which [Outbox.Archived] reads to rebuild a read model. Dead messages wait until somebody replays or discards
// them, or for [RelayConfig.KeepDead]; who did it is on record for [RelayConfig.KeepSettled]. [Outbox.Erase] removes
// a key's messages from every table.
//
// # Operating it
//
// [Outbox.Stats] tells what the database holds, [Relay.Progress] what a relay does, [Relay.Healthy] why messages do
// not leave, and [Outbox.Measure] exports it all to OpenTelemetry. docs/operations-outbox.md says what to watch, and
// what to do when.
//
// # Failures
//
//	failure                                   what happens
//	broker down                               the topic pauses with backoff; no attempt is used up, but for one of a
//	                                          message that was being retried when it went down
//	one message refused, others taken         retry table with backoff, its key behind it (see Poison); then dead
//	Publish hangs                             its topic waits; Healthy complains after StuckAfter; shards that are to
//	                                          be handed over are kept for one more Lease, then it may arrive twice;
//	                                          its messages' context ends before another relay may publish them
//	relay killed                              another takes over when the leases expire; of each topic at most
//	                                          Batch messages, which were under way, are published twice
//	relay frozen inside a transaction         its shards wait for its locks: on PostgreSQL for a Lease, elsewhere
//	                                          until the server finds the connection dead; others go on with theirs
//	relay sleeps, wakes after its leases      it deletes nothing; what it was sending may arrive twice
//	database down                             the relay retries; it publishes nothing once its leases are over
//	an idle transaction holds its number      nothing waits for it; the relay looks back to it when it has ended
package outbox
