package outbox

import (
	"context"
	"database/sql"
	"strconv"

	"gorm.io/gorm"
)

// An execer runs statements written with ? and {now} on any dialect.
type execer struct {
	ctx     context.Context
	conn    gorm.ConnPool
	dialect dialect
}

func (x execer) exec(query string, args ...any) (affected int64, err error) {
	res, err := x.conn.ExecContext(x.ctx, x.dialect.sql(query), args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (x execer) query(query string, args []any, each func(*sql.Rows) error) error {
	rows, err := x.conn.QueryContext(x.ctx, x.dialect.sql(query), args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (x execer) strings(query string, args ...any) (list []string, err error) {
	err = x.query(query, args, func(rows *sql.Rows) error {
		var s string
		err := rows.Scan(&s)
		list = append(list, s)
		return err
	})
	return list, err
}

func (x execer) numbers(query string, args ...any) (list []int64, err error) {
	err = x.query(query, args, func(rows *sql.Rows) error {
		var n int64
		err := rows.Scan(&n)
		list = append(list, n)
		return err
	})
	return list, err
}

func (x execer) leases(query string, args ...any) (map[int]int64, error) {
	held := map[int]int64{}
	err := x.query(query, args, func(rows *sql.Rows) error {
		var shard int
		var epoch int64
		err := rows.Scan(&shard, &epoch)
		held[shard] = epoch
		return err
	})
	return held, err
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
