// Package cqrsotel makes OpenTelemetry spans and metrics of what package cqrs does. It needs the OpenTelemetry API
// alone; SDK and exporters belong to the program.
//
//	t, err := cqrsotel.New(cqrsotel.Config{System: "kafka"})
//	svc, err := host.Open(ctx, "orders", db, catalog, host.Config{Telemetry: t})
//
// Without cqrs/host the three parts are wired by hand: [Telemetry] is the Observer of a cqrs.ProcessorConfig,
// [Telemetry.Publisher] wraps what the Sender publishes to, and [Telemetry.Watch] reads a processor's counters.
//
// # One trace
//
// A message carries the span that sent it as W3C trace context, in its headers, through the outbox's table and the
// bus. The span of its handler is that span's child, in whatever process it runs, and so is what the handler sends.
// Names and attributes are those of OpenTelemetry's conventions for messaging.
//
//	span                kind      parent                        links
//	send <topic>        producer  the span of who sends         —
//	process <topic>     consumer  the message's send            —
//	process <topic>     consumer  the batch; a batch handler    each message's send
//	process batch       consumer  —; a transaction of messages  each message's send
//	execute <command>   internal  the caller's                  —
//
// A transaction that runs again calls handlers again, and each call has a span: one shows what happened, and that
// includes what was undone. A span is an error when its handler failed. A refusal (cqrs.Rejection), a handler that
// asks to be called later, a reply that comes later and a cancellation are outcomes, in the attribute cqrs.outcome.
//
// # Metrics
//
//	messaging.client.sent.messages     counter    by topic, error.type
//	messaging.client.operation.duration  seconds  by topic, error.type: the publisher's, an outbox's insert is buffered
//	messaging.process.duration         seconds    by topic, type and outcome: one call of a handler
//	cqrs.execute.duration              seconds    by command and outcome: with the commit
//	cqrs.batch.messages                histogram  how many messages share a transaction
//	cqrs.batch.duration                seconds    by error.type: a transaction with its commit
//	cqrs.in_flight                     gauge      messages in transactions right now
//	cqrs.messages                      counter    by fate: handled, rejected, failed, postponed, dead, skipped, duplicate
//	cqrs.lag                           gauge      by topic: messages that the group has not finished
//
// All have the consumer group, where there is one. What senders choose freely never becomes an attribute of a metric:
// types that the catalog does not know are "_OTHER", and so are topics of which there is one per process
// (orders.replies.host-1 counts as orders.replies).
//
// # What fails
//
//	no exporter, or a full one        the SDK's business; nothing here waits for it
//	a message without trace context   its handler's span begins a trace
//	a malformed one                   likewise
//	the subscriber cannot tell a lag  cqrs.lag has no value
package cqrsotel
