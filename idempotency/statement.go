package idempotency

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strconv"
	"strings"

	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
)

// maxRows bounds the rows of one statement; SQLite allows 32,766 parameters.
const maxRows = 1000

// A dialect is the name that GORM gives it.
type dialect string

const (
	postgres dialect = "postgres"
	mysql    dialect = "mysql"
	sqlite   dialect = "sqlite"
)

// now is the database's clock in milliseconds since 1970.
func (d dialect) now() string {
	switch d {
	case postgres:
		return "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
	case mysql:
		return "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)"
	}
	return "CAST(unixepoch('subsec') * 1000 AS INTEGER)"
}

// upsert begins the clause that overwrites columns of a row whose key is there.
func (d dialect) upsert(columns ...string) string {
	var b strings.Builder
	if d == mysql {
		b.WriteString(" ON DUPLICATE KEY UPDATE ")
	} else {
		b.WriteString(" ON CONFLICT (id) DO UPDATE SET ")
	}
	for i, c := range columns {
		if i > 0 {
			b.WriteString(", ")
		}
		if d == mysql {
			b.WriteString(c + " = VALUES(" + c + ")")
		} else {
			b.WriteString(c + " = excluded." + c)
		}
	}
	return b.String()
}

// A statement is SQL with its arguments, written with question marks and bound as the dialect wants it.
type statement struct {
	dialect dialect
	pool    gorm.ConnPool
	text    strings.Builder
	args    []any
}

// statementIn returns a statement in the transaction of ctx; without one it fails with uow.ErrNoTransaction.
func statementIn(ctx context.Context) *statement {
	db := uow.DB(ctx)
	return &statement{dialect: dialect(db.Name()), pool: db.Statement.ConnPool}
}

// add appends SQL; each question mark takes the next argument.
func (s *statement) add(text string, args ...any) *statement {
	if s.dialect != postgres {
		s.text.WriteString(text)
		s.args = append(s.args, args...)
		return s
	}
	for _, part := range strings.SplitAfter(text, "?") {
		head, marked := strings.CutSuffix(part, "?")
		s.text.WriteString(head)
		if marked {
			s.args = append(s.args, args[0])
			args = args[1:]
			s.text.WriteString("$" + strconv.Itoa(len(s.args)))
		}
	}
	return s
}

// among appends the condition that the expression before is one of ids. PostgreSQL gets one array, so that the
// text, and with it the prepared statement, does not depend on how many there are.
func (s *statement) among(ids []string) *statement {
	if s.dialect == postgres {
		return s.add(" = ANY(?)", ids)
	}
	s.add(" IN (")
	s.add(strings.TrimSuffix(strings.Repeat("?,", len(ids)), ","), anys(ids)...)
	return s.add(")")
}

func anys(ids []string) []any {
	list := make([]any, len(ids))
	for i, id := range ids {
		list[i] = id
	}
	return list
}

// values appends n rows in parentheses.
func (s *statement) values(n int, row func(i int) (text string, args []any)) *statement {
	s.add(" VALUES ")
	for i := range n {
		if i > 0 {
			s.add(",")
		}
		text, args := row(i)
		s.add("("+text+")", args...)
	}
	return s
}

// exec returns how many rows changed.
func (s *statement) exec(ctx context.Context) (int64, error) {
	res, err := s.pool.ExecContext(ctx, s.text.String(), s.args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// each calls scan for each row of the result.
func (s *statement) each(ctx context.Context, scan func(*sql.Rows) error) (err error) {
	rows, err := s.pool.QueryContext(ctx, s.text.String(), s.args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// strings returns the first column of the result.
func (s *statement) strings(ctx context.Context) (list []string, err error) {
	err = s.each(ctx, func(r *sql.Rows) error {
		var v string
		if err := r.Scan(&v); err != nil {
			return err
		}
		list = append(list, v)
		return nil
	})
	return list, err
}

// inChunks calls f with at most maxRows items at a time.
func inChunks[T any](items []T, f func([]T) error) error {
	for chunk := range slices.Chunk(items, maxRows) {
		if err := f(chunk); err != nil {
			return err
		}
	}
	return nil
}
