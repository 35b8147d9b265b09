package uow

import "time"

// Age makes an outcome as old as if its COMMIT had been sent so much earlier.
func Age(e *OutcomeError, by time.Duration) { e.receipt.at = e.receipt.at.Add(-by) }

// Forget makes an outcome that of a transaction which PostgreSQL has long forgotten.
func Forget(e *OutcomeError) { e.receipt.xid = "4" }

// Waiting returns how many callers wait for a transaction.
func Waiting(u *UnitOfWork) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.queue)
}

// Transient exposes the classification of errors on a dialect.
func Transient(name string, err error) bool { return dialect(name).transient(err) }

// Locks exposes whether a query is known to lock the rows it reads.
func Locks(query string) bool { return locks(kindOf(query), query) }

// Refused exposes the classification of a failed COMMIT.
func Refused(name string, err error) bool { return dialect(name).refused(err) }

// Statements exposes how migrations are split.
var Statements = statements

// KindOf exposes how statements are told apart: r for read, c for change, b for back, e for ending, o for other.
func KindOf(query string) string {
	return map[kind]string{read: "r", save: "s", session: "v", change: "c", rollbackTo: "b", ending: "e", other: "o"}[kindOf(query)]
}
