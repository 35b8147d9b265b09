package outbox

import "errors"

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
