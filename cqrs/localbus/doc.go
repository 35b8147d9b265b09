// Package localbus is an in-process Pub/Sub with the semantics of a partitioned log: consumer groups,
// partitions, order per key, many unacked messages at once, and backpressure.
//
// It lets services that share a process use the same handlers as services joined by Kafka. It has no
// storage of its own. Instead its Publish returns only once every group that reads the topic has acked
// every message, so whoever keeps a message until Publish has returned loses nothing in a crash. An
// outbox does exactly that: its relay deletes a row only after Publish returned nil.
//
// # Guarantees
//
//   - At least once: Publish returns nil only when every group that reads the topic has acked every
//     message. Otherwise it returns a [*PublishError] that names the messages to publish again.
//   - Order: messages of one key (metadata ce_partitionkey) that are published one after the other are
//     delivered to a group in that order, also when they are delivered again. Messages without a key
//     are spread over the partitions and have no order.
//   - Every group gets a copy of its own with its own ack. Payload bytes are shared; do not change them.
//   - A nack, or an end of the subscription, delivers that message and the unacked ones after it in its
//     partition again, in order.
//   - A publisher waits for groups that were declared ([Bus.Declare], Config.Groups, SubscribeInitialize)
//     or have subscribed before, for up to Config.Wait. So a group may go away and come back, and
//     services may start in any order.
//
// # Not guaranteed
//
//   - Exactly once. A consumer that dies between its commit and its ack sees the message again, and so
//     does a group that acked a batch that another group refused. Consumers need an inbox.
//   - Anything at all after a Publish that returned an error and was not repeated.
//   - Order between publishers that run at the same time.
//
// Do not call Publish while holding something that a consumer needs to ack: a transaction (see
// Config.InTransaction), a lock, or the message being handled.
//
// # Watermill's universal suite
//
// The bus passes watermill/pubsub/tests behind a publisher that keeps messages until Publish has returned, as an outbox
// does. Of the suite's features these are true:
//
//   - Persistent, by that publisher.
//   - GuaranteedOrder with a Window of 1 on one partition. The suite means that the next message of a topic comes after
//     the ack of the one before; with larger windows the order is that of each key.
//
// and these are false:
//
//   - ConsumerGroups: the suite reads with one group after the other, and has one that is announced and never reads.
//     Here a message is handed over while all groups are there. This package's own tests cover groups.
//   - ExactlyOnceDelivery: see above.
//   - NewSubscriberReceivesOldMessages: there is no storage; a projection is rebuilt from one that has.
//   - RequireSingleInstance and GuaranteedOrderWithSingleSubscriber, which would only excuse from tests that pass.
//   - ContextPreserved: a message leaves its transaction behind.
//
// # Contexts
//
// The context of the first message of a batch bounds Publish. A received message's context has the values of that of
// Subscribe; it ends when the message is acked or taken back, or when the subscription ends. Within a partition
// the contexts end from the last message to the first. So look at a message's context when you have read it: one
// that has ended is to be nacked and not handled, and no message that comes before its turn looks alive then.
//
// # When something fails
//
//	no group reads the topic            ErrNoReader, or dropped with Config.Discard
//	a group has no subscriber           Publish waits, then ErrAbsent
//	a message is nacked                 delivered again after 1 to 100 ms, at last ErrNacked
//	a subscriber leaves without acking  the next one gets its messages after Config.Drain
//	a consumer hangs                    Publish waits until the message's context ends
//	the bus is closed                   ErrClosed
//	the process dies                    publishers that kept their messages publish them again
package localbus
