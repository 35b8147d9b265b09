package gormstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
)

var _ cqrs.Locker = Locker{}

// ErrNoLocks is returned by [Locker] on MySQL and MariaDB, whose named locks do not end with the transaction.
// Leave ProcessorConfig.Locker nil there: the locks are then those of the process.
var ErrNoLocks = errors.New("gormstore: named locks need PostgreSQL or SQLite")

// A Locker takes the locks that handlers declare with cqrs.Locks in the database, so that they hold across replicas
// and until the end of the transaction: advisory locks on PostgreSQL, and none on SQLite, where whoever is in a
// transaction is the only writer. Callers that share a transaction share its locks. Two names may meet in one lock
// (1 in 2⁶⁴ pairs), which costs a wait and nothing else. The zero value is ready and safe for concurrent use.
type Locker struct{}

// Lock implements cqrs.Locker. It needs the unit of work in ctx; names are sorted and distinct.
func (Locker) Lock(ctx context.Context, names []string) error {
	tx := uow.DB(ctx)
	switch {
	case len(names) == 0 || tx.Name() == "sqlite":
		return nil
	case tx.Name() == "mysql":
		return ErrNoLocks
	}
	rows, args := make([]string, len(names)), make([]any, len(names))
	for i, n := range names {
		rows[i], args[i] = fmt.Sprintf("(%d,?)", i), n
	}
	// The subquery keeps the order; without OFFSET 0 the planner may flatten it away.
	query := "SELECT pg_advisory_xact_lock(h) FROM (SELECT hashtextextended(n, 0) AS h FROM (VALUES " +
		strings.Join(rows, ",") + ") AS t(i, n) ORDER BY i OFFSET 0) AS ordered"
	_, err := exec(tx, "lock", query, args...)
	return err
}
