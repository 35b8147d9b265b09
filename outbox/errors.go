package outbox

import (
	"database/sql"
	"errors"

	"github.com/go-sql-driver/mysql"
)

var (
	// ErrShards means that the database was laid out for another number of shards. Keys would change their shard,
	// so messages of one key could overtake each other; the table must be drained and laid out anew.
	ErrShards = errors.New("outbox: the database has another number of shards")
	// ErrNoTransaction is returned by PublishTx for a handle that is not a transaction.
	ErrNoTransaction = errors.New("outbox: the handle is not a transaction")
	// ErrRunning is returned by Run while the same Relay already runs.
	ErrRunning = errors.New("outbox: the relay already runs")
	// ErrHung is returned by Run when a publisher did not return within [RelayConfig.Grace], twice: once after
	// the relay stopped and once after the context of its messages ended. Its goroutine is left behind.
	ErrHung = errors.New("outbox: the publisher does not return")
	// ErrStuck is what [Relay.Healthy] wraps when messages do not leave.
	ErrStuck = errors.New("outbox: messages do not leave")
	// ErrNoActor is returned by Replay, Discard and Erase when the action names nobody or gives no reason.
	ErrNoActor = errors.New("outbox: an action needs an actor and a reason")
)

// lasting reports whether trying again does not mend why the number of shards could not be read: there is another, or
// none, or the table is missing or may not be read.
func lasting(err error) bool {
	var postgres interface{ SQLState() string }
	var my *mysql.MySQLError
	var sqlite interface{ Code() int }
	switch {
	case errors.Is(err, ErrShards), errors.Is(err, sql.ErrNoRows):
		return true
	case errors.As(err, &postgres):
		code := postgres.SQLState()
		return code == "42P01" || code == "42501" // undefined_table, insufficient_privilege
	case errors.As(err, &my):
		return my.Number == 1146 || my.Number == 1142 // ER_NO_SUCH_TABLE, ER_TABLEACCESS_DENIED_ERROR
	case errors.As(err, &sqlite):
		return sqlite.Code() == 1 // SQLITE_ERROR: it does not understand the statement
	}
	return false
}
