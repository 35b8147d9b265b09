package gormstore

import (
	"context"
	"database/sql"
	"errors"
	"reflect"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"gorm.io/gorm/schema"
)

// maxRows bounds the rows of one statement, so that its parameters stay below every database's limit.
const maxRows = 256

func (p *plan) selectAll(n int) string {
	b := &binder{dialect: p.dialect}
	if n == 1 {
		return b.text(p.get, "=").place().String()
	}
	return b.text(p.get, " IN ").tuple(n).String()
}

func (p *plan) insertAll(n int) string {
	b := &binder{dialect: p.dialect}
	b.Grow(len(p.insert) + n*len(p.fields)*5)
	b.text(p.insert)
	for i := range n {
		if i > 0 {
			b.text(",")
		}
		b.tuple(len(p.fields))
	}
	return b.text(p.onDup).String()
}

// values appends what the row stores to args, with version in place of the row's.
func (p *plan) values(ctx context.Context, row reflect.Value, version int64, args []any, withKey bool) []any {
	for _, f := range p.fields {
		switch {
		case f == p.version:
			args = append(args, version)
		case f == p.key && !withKey:
		default:
			v, _ := f.ValueOf(ctx, row)
			args = append(args, v)
		}
	}
	return args
}

// stamp fills in GORM's automatic times.
func (p *plan) stamp(ctx context.Context, row reflect.Value, created bool) {
	now := time.Now()
	for _, f := range p.fields {
		_, zero := f.ValueOf(ctx, row)
		if f.AutoUpdateTime > 0 || created && f.AutoCreateTime > 0 && zero {
			_ = f.Set(ctx, row, timeOf(f, now)) // cannot fail: the value has the field's own kind
		}
	}
}

func timeOf(f *schema.Field, now time.Time) any {
	unit := max(f.AutoCreateTime, f.AutoUpdateTime)
	switch {
	case f.DataType == schema.Time || f.GORMDataType == schema.Time:
		return now
	case unit == schema.UnixNanosecond:
		return now.UnixNano()
	case unit == schema.UnixMillisecond:
		return now.UnixMilli()
	default:
		return now.Unix()
	}
}

func (p *plan) scan(ctx context.Context, rows *sql.Rows, into reflect.Value) error {
	values := make([]any, len(p.fields))
	for i, f := range p.fields {
		values[i] = f.NewValuePool.Get()
	}
	defer func() {
		for i, f := range p.fields {
			f.NewValuePool.Put(values[i])
		}
	}()
	if err := rows.Scan(values...); err != nil {
		return err
	}
	for i, f := range p.fields {
		if err := f.Set(ctx, into, values[i]); err != nil {
			return err
		}
	}
	return nil
}

// isKeyTaken reports a doubled primary key where the statement could not say ON CONFLICT (key): an
// INSERT IGNORE of MySQL would hide any other fault too.
func (p *plan) isKeyTaken(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && e.Number == 1062 && strings.HasSuffix(e.Message, "PRIMARY'")
}

// expect returns miss unless the statement changed want rows.
func expect(res sql.Result, want int, miss error) error {
	n, err := res.RowsAffected()
	if err != nil {
		return err
	}
	if n != int64(want) {
		return miss
	}
	return nil
}
