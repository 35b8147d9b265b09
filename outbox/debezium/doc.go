// Package debezium lets Debezium publish what package outbox wrote, in place of a relay: the connector's
// configuration, and the [Pruner] that keeps the tables tidy meanwhile.
//
// # The problem
//
// Where Kafka Connect runs anyway, Debezium can read the outbox table from PostgreSQL's write-ahead log and write it
// to Kafka. Consumers must not notice who wrote a record, rows must leave the table though no relay deletes them, and
// scheduled messages must come due.
//
// # The guarantee
//
// With the settings of [Connector], Debezium's EventRouter writes records of the same topic, key, payload and
// message id as a relay over package kafkabus, to the same partition, and kafkabus reads the same metadata from
// them; at least once, and in the order of commits. The [Pruner] deletes a row only when the replication slot has
// confirmed it, so what was not published can always be read again, by a relay or by a new slot. It moves
// scheduled messages into the outbox when they are due.
//
// # What is not guaranteed
//
// There are no retries, dead rows or policies per topic: a record that Kafka refuses stops the connector, and with it
// everything behind it. A message without a key gets the empty key in place of none, so all of a topic's are on one
// partition. Consumers other than kafkabus find the metadata as JSON in one header named "headers". Only
// PostgreSQL is supported: on MySQL the position that was read is known to Connect alone, so nothing could be
// pruned safely.
//
// # Wiring
//
//	c := debezium.Connector{Host: "db.internal", User: "debezium", Password: secret, Database: "orders"}
//	err := c.CreatePublication(ctx, db) // once
//	body, err := c.JSON()               // POST it to Connect's /connectors
//	pruner, err := debezium.NewPruner(db, debezium.PrunerConfig{})
//	go pruner.Run(ctx)                  // in place of Relay.Run
//
// docs/debezium.md tells when to choose it, and how to cut over and back while writers go on.
//
// # Failures
//
//	failure                          what happens
//	connector stopped or failed      rows stay in the table; the server keeps its log; Healthy complains
//	slot lost or invalidated         nothing is deleted; a new slot begins with a snapshot of the table
//	pruner stopped                   the table grows, scheduled messages wait, publishing goes on
//	two pruners                      they share the work
package debezium
