// Package uow is the unit of work: a database transaction in the context, shared by concurrent callers.
//
// # The problem
//
// A durable commit costs a disk flush, whatever it contains. A service that gives every request and every
// message a transaction of its own is limited by that flush, not by its work. Databases have answered this
// for decades with group commit (DeWitt et al., 1984) below the SQL interface; this package does it above:
// callers of [UnitOfWork.Do] that arrive while another transaction is under way share the next one, so under
// load hundreds of functions commit together, and a lone caller waits for nobody.
//
// # What a caller sees
//
// Do behaves as if the caller had a transaction of its own:
//
//   - It returns nil only once the effects of fn are committed.
//   - It returns the error of fn only once the effects of fn are undone; the neighbors commit.
//   - A panic of fn is undone alone and goes on in the caller's goroutine. So does runtime.Goexit.
//   - fn that overstays [Config.PartTimeout] is cut off from the transaction; the neighbors go on without it.
//   - A caller whose context ends while it still waits leaves. Once fn has started, the caller's context no
//     longer matters: one client that hangs up does not abort the others.
//   - Do inside fn joins. An error undoes the inner part alone.
//
// # How a part is undone alone
//
// Not by savepoints in the ordinary path: they halve PostgreSQL's throughput. A part that failed without having
// changed a row (a business refusal, mostly) costs nothing: it keeps its place and what it had buffered is cut.
// A part that failed after a write makes the transaction roll back; the others run again together, and the one
// that failed runs again alone. So fn may run more than once, and must be safe to run again from the start:
// it assigns its results instead of appending them, and has no effect outside the database.
//
// Serialization failures, deadlocks and SQLITE_BUSY are nobody's fault: the transaction is retried in smaller
// groups, [Config.Retries] times, and until each part has run alone: one that always loses its transaction, because its
// statement is too large or the row that it needs stays locked, fails alone.
//
// # What all parts share
//
// [Prepare] collects what all callers need when the transaction begins (claims of keys, say), and
// [BeforeCommit] what all leave behind (outbox rows, stored answers), for one statement each.
// [AfterCommit] runs once it is committed.
//
// # Statements that need no answer
//
// With the commit shared, a small statement's round trip is what is left to save: the server does in microseconds what
// the way there and back takes many times as long for. [Queue] and [QueueOne] take statements of which fn needs no
// result, and with [Config.Pipeline] send those of many parts together. Their order is that of the calls, and every
// other statement comes after them, so nothing is seen that would not be seen without. What fails is found late; then
// the part runs again alone and is told in time.
//
// # What is not guaranteed
//
// When the connection breaks during COMMIT its outcome is asked for (PostgreSQL: pg_xact_status; MySQL and MariaDB: a
// token in the table uow_outcomes, which [Migrate] creates). If nobody can tell within five seconds, Do returns
// [ErrOutcomeUnknown] and never runs fn again by itself; [OutcomeError.Resolve] asks again.
//
// Whether a part has changed a row is read off its statements: SELECT reads, and a change of 0 rows is none. A part
// that writes in another way, by a function that it selects or a trigger that redirects its INSERT, and then fails,
// may leave that behind. Begin such a statement with WITH, as in WITH w AS (SELECT f()) SELECT * FROM w: it counts
// as a write.
//
// Settings of the transaction or the session (SET LOCAL, set_config, a tenant for row-level security, a timeout) hold
// for the neighbors too. Where parts need settings of their own, above all where these decide what a part may see, give
// each its own transaction: [Config.MaxShare] 1.
//
//	failure                                   what Do does
//	fn returns an error, no row changed       the error is returned; neighbors are not disturbed
//	fn returns an error after a write         neighbors run again together, fn runs again alone
//	fn panics or calls runtime.Goexit         neighbors run again together, fn does not; the panic goes on
//	fn exceeds PartTimeout                    neighbors run again together; context.DeadlineExceeded
//	deadlock, serialization failure, busy     all run again, in halves, with backoff, also if fn swallows it
//	no answer to BEGIN                        context.DeadlineExceeded, after PartTimeout
//	no answer to COMMIT                       as if the connection were lost, after PartTimeout (PostgreSQL; for MySQL
//	                                          set readTimeout in the DSN)
//	connection lost before COMMIT             all run again, in halves, with backoff
//	connection lost during COMMIT             asked for; else ErrOutcomeUnknown
//	a BeforeCommit flush fails                halves run again until the culprit is alone; it gets the error
//	a statement of Queue fails                neighbors run again together, its part alone, where Queue says so
package uow
