// Package pgxpipe sends the statements that [uow.Queue] has queued through pgx, PostgreSQL's driver, in one round trip:
//
//	uow.New(db, uow.Config{Pipeline: pgxpipe.Pipeline{}})
//
// It is a package of its own so that nobody who runs on another database compiles pgx.
package pgxpipe

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/surge-go/surge/outbox/uow"
)

// A Pipeline is a [uow.Pipeline] for databases that were opened with GORM's PostgreSQL driver, or with pgx's for
// database/sql. It uses PostgreSQL's pipeline mode, and the mode of execution for which the connection is configured.
// Its zero value works and is safe for concurrent use.
type Pipeline struct{}

var _ uow.Pipeline = Pipeline{}

// Exec implements [uow.Pipeline]. An error in preparing one of the statements, which pgx does for all first, is
// returned as if it were the first one's.
func (Pipeline) Exec(ctx context.Context, conn any, statements []uow.Statement) (rows []int64, err error) {
	c, ok := conn.(*stdlib.Conn)
	if !ok {
		return nil, fmt.Errorf("pgxpipe: the connection is a %T, want pgx's", conn)
	}
	var batch pgx.Batch
	for _, s := range statements {
		batch.Queue(s.SQL, s.Args...)
	}
	results := c.Conn().SendBatch(ctx, &batch)
	rows = make([]int64, 0, len(statements))
	for _, s := range statements {
		n, err := read(results, s)
		if err != nil {
			_ = results.Close() // says the same
			return rows, err
		}
		rows = append(rows, n)
	}
	return rows, results.Close()
}

// read reads the answer to one statement.
func read(results pgx.BatchResults, s uow.Statement) (rows int64, err error) {
	if s.Row != nil {
		return 1, results.QueryRow().Scan(s.Row...)
	}
	tag, err := results.Exec()
	return tag.RowsAffected(), err
}
