// Package store keeps sagas and participants in the database of the unit of work in the context. Every function runs
// inside one, takes many rows and needs one statement for them (more only where a database bounds its size).
package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// A conn is the transaction in a context.
type conn struct {
	gorm.ConnPool
	name string
}

const (
	postgres = "postgres"
	mysql    = "mysql"
	sqlite   = "sqlite"
)

// open returns the transaction in ctx. Without one every statement fails with uow.ErrNoTransaction.
func open(ctx context.Context) conn {
	db := uow.DB(ctx)
	return conn{db.Statement.ConnPool, db.Name()}
}

// sql numbers the placeholders where the database wants that.
func (c conn) sql(query string) string {
	if c.name != postgres {
		return query
	}
	var b strings.Builder
	n := 0
	for part := range strings.SplitSeq(query, "?") {
		if n > 0 {
			b.WriteString("$" + strconv.Itoa(n))
		}
		b.WriteString(part)
		n++
	}
	return b.String()
}

func (c conn) exec(ctx context.Context, query string, args ...any) (int64, error) {
	res, err := c.ExecContext(ctx, c.sql(query), args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// each calls scan for every row.
func (c conn) each(
	ctx context.Context, scan func(func(...any) error) error, query string, args ...any,
) (err error) {
	rows, err := c.QueryContext(ctx, c.sql(query), args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// in is the right-hand side of "column IN", with its arguments: one array on PostgreSQL, so that the statement's
// text does not depend on their number.
func (c conn) in(values []string) (string, []any) {
	if c.name == postgres {
		return "(SELECT unnest(?::text[]))", []any{values}
	}
	args := make([]any, len(values))
	for i, v := range values {
		args[i] = v
	}
	return "(?" + strings.Repeat(",?", len(values)-1) + ")", args
}

// any is a condition on a column with its arguments, which PostgreSQL's planner answers from an index whatever it
// believes about the size of the table.
func (c conn) any(column string, values []string) (string, []any) {
	if c.name == postgres {
		return column + " = ANY(?::text[])", []any{values}
	}
	list, args := c.in(values)
	return column + " IN " + list, args
}

// Clock returns the database's clock in unix milliseconds. On SQLite that is this process's clock, and known is
// false: the caller's own is the same.
func Clock(ctx context.Context) (ms int64, known bool, err error) {
	c := open(ctx)
	var query string
	switch c.name {
	case postgres:
		query = "SELECT (extract(epoch from clock_timestamp()) * 1000)::bigint"
	case mysql:
		query = "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(3)) DIV 1000"
	case sqlite:
		return 0, false, nil
	default:
		return 0, false, fmt.Errorf("saga: dialect %q is not supported, only postgres, mysql and sqlite", c.name)
	}
	err = c.each(ctx, func(scan func(...any) error) error { return scan(&ms) }, query)
	return ms, err == nil, err
}
