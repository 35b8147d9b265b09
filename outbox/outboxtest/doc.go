// Package outboxtest is a conformance suite for the outbox on a database.
//
// [Run] takes a function that opens an empty database, and checks what package outbox promises: nothing is lost,
// nothing leaves a transaction that was rolled back, messages of one key keep the order of their commits though
// sixteen writers overlap, a publisher that fails, half-fails or hangs harms only what it must, and a relay whose
// leases were stolen while it slept, or under load again and again, does no damage. It
// runs on SQLite, PostgreSQL and MariaDB in this repository's
// own tests; run it against your own server version, driver or proxy.
package outboxtest
