// Package cqrstest helps to test handlers without a database or a broker: a [Scenario] gives them messages and
// looks at what they send, a [Recorder] is a publisher that remembers, and a [Repository] keeps aggregates in memory.
//
// What it does not show: transactions. A handler that fails in a Scenario keeps what it wrote; for such tests use the
// real unit of work on SQLite in memory, which is as fast (cqrs/host/hosttest).
//
//	failure                         what a test sees
//	handler fails                   Given and When fail the test with the handler's error
//	handler refuses                 ThenRejected, and Then reports it where events were expected
//	message is not in the catalog   Given and When fail the test
//	nobody handles the message      Given and When fail the test
//	aggregate saved by two          aggregate.ErrConflict from Save, as with a database
package cqrstest
