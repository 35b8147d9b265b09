package debezium

import "errors"

var (
	// ErrNoSlot says that the replication slot does not exist: the connector was never started, or the slot was
	// dropped. Nothing is deleted.
	ErrNoSlot = errors.New("debezium: the replication slot does not exist")
	// ErrInactive says that no connector reads the slot, or not yet: it may be under creation. Nothing is deleted, and the
	// server keeps its log.
	ErrInactive = errors.New("debezium: no connector reads the replication slot")
	// ErrLost says that the server has dropped log that the slot still needed (max_slot_wal_keep_size). The slot is
	// of no use any more; what the connector has missed is still in the table.
	ErrLost = errors.New("debezium: the replication slot has lost a part of the log")
	// ErrBehind says that rows have waited too long to be confirmed and deleted, or scheduled messages to be moved.
	ErrBehind = errors.New("debezium: the pruner is behind")
	// ErrRunning says that this pruner runs already.
	ErrRunning = errors.New("debezium: the pruner runs already")
	// ErrStopped says that this pruner does not run.
	ErrStopped = errors.New("debezium: the pruner does not run")
	// ErrDialect says that the database is not PostgreSQL.
	ErrDialect = errors.New("debezium: only PostgreSQL is supported")
)
