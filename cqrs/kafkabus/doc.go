// Package kafkabus is a Watermill Pub/Sub on Kafka for consumers that run many messages at once.
//
// A stock subscriber hands out one message per partition and waits for its ack, which bounds a partition
// to some hundred messages a second. Here the channel hands out message after message, up to
// Config.Window per partition, so a consumer can put hundreds of them into one transaction. Publish
// sends a batch as a batch. On the wire nothing differs: messages go to and come from programs that use
// watermill-kafka's DefaultMarshaler, and are CloudEvents in binary mode if they carry that envelope.
//
// # Guarantees
//
//   - At least once. Offsets are committed up to the oldest record that was received and not acked,
//     never past it.
//   - Order per key (metadata ce_partitionkey, the record's key). A nack delivers that message and the
//     unacked ones after it in its partition again, in order, after a pause.
//   - Publishing waits for all in-sync replicas, is idempotent within a connection, and says by
//     [PublishError] which messages of a batch failed. Keys go to the partitions where Java's clients put them,
//     unless Publisher.OverwriteSaramaConfig brings another partitioner, see [NewPartitioner].
//   - A new group starts with the oldest record, unless Subscriber.OverwriteSaramaConfig says otherwise.
//   - A group goes on where it was, or not at all: offsets that are gone are a [LostError] until Config.Lost
//     decides. A consumer that keeps its own positions gives them to [Bus.SubscriberAt].
//   - A record that cannot be decoded never stops its partition: it arrives as a message of type
//     [TypeUndecodable].
//
// # Not guaranteed
//
//   - Exactly once. A connection that is lost at the wrong moment, a member that is expelled and a crash
//     between commit and ack all repeat messages, also late, after newer ones of their key. Consumers
//     need an inbox or a version guard. Kafka's transactions would not change that (docs/adr/0011).
//   - Order across a change of a topic's number of partitions. Create another topic and move instead.
//   - Ids of their own for records that bring none. They are named after topic, partition and offset, the same
//     on every delivery, and a topic that is deleted and made anew counts its offsets from 0 again: as long as an
//     inbox remembers the old records, new ones at their places look like duplicates and are skipped. Give the
//     new topic another name, or its records ids.
//
// # When partitions are taken away
//
// In a rebalance, and when a subscription or the subscriber is closed: intake stops, the contexts of all messages
// of the session end, what nobody has read from the channel is taken back, and acks are awaited
// for up to Config.Drain, which is at most half of the rebalance timeout. Then the offsets are committed
// and the partitions are given up. A consumer should therefore finish what it has started, and nack at
// once what it has not. While one member drains, the whole group waits.
//
// Who reads while the rest is taken back may get a message and not the one before it. So look at its context when
// you have read it: one that has ended is to be nacked and not handled, or it is handled before its turn. Package cqrs
// does so.
//
// # When something fails
//
//	broker down                 Publish fails; subscribers reconnect until closed
//	message too large, invalid  PublishError.Refused reports true when it was published alone
//	send times out              failed for the caller; may arrive later
//	topic does not exist        read as soon as it does; other topics are not held up. Publish fails, or, where the
//	                            cluster has auto.create.topics.enable, creates it with the cluster's defaults and not
//	                            with those of Config.Topic: call [Bus.CreateTopics] before anybody publishes
//	records at the offset gone  the member reads nothing, logs and looks again; Config.Lost
//	record cannot be decoded    Config.Undecodable, by default a message that becomes a dead letter
//	message is nacked           delivered again, for ever; 10 ms, doubling up to 1 s
//	consumer hangs              its partition stops at the window; a rebalance waits for Config.Drain
//	process dies                uncommitted records are delivered to another member
package kafkabus
