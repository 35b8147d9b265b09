package gormstore

import (
	"context"
	"fmt"
	"strings"

	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// All times are microseconds since 1970, by the database's clock: one type and one arithmetic on every dialect.

// nowOn returns the expression for the time.
func nowOn(tx *gorm.DB) string {
	switch tx.Name() {
	case "postgres":
		return "(EXTRACT(EPOCH FROM clock_timestamp())*1000000)::BIGINT"
	case "mysql":
		return "TIMESTAMPDIFF(MICROSECOND,'1970-01-01',UTC_TIMESTAMP(6))"
	default:
		return "CAST(unixepoch('subsec')*1000000 AS INTEGER)"
	}
}

// locking returns the clause that locks what a SELECT reads. SQLite has one writer and needs none.
func locking(tx *gorm.DB, clause string) string {
	if tx.Name() == "sqlite" {
		return ""
	}
	return " " + clause
}

// in runs fn in the transaction in ctx, or in one of its own.
func in(ctx context.Context, work *uow.UnitOfWork, fn func(ctx context.Context, tx *gorm.DB) error) error {
	return work.Do(ctx, func(ctx context.Context) error { return fn(ctx, uow.DB(ctx)) })
}

// exec runs a statement and returns how many rows it changed.
func exec(tx *gorm.DB, what, sql string, args ...any) (int64, error) {
	res := tx.Exec(sql, args...)
	if res.Error != nil {
		return 0, fmt.Errorf("gormstore: %s: %w", what, res.Error)
	}
	return res.RowsAffected, nil
}

// query scans a statement's rows into a slice.
func query[T any](tx *gorm.DB, what, sql string, args ...any) ([]T, error) {
	var rows []T
	if err := tx.Raw(sql, args...).Scan(&rows).Error; err != nil {
		return nil, fmt.Errorf("gormstore: %s: %w", what, err)
	}
	return rows, nil
}

// chunks calls fn with at most maxRows items at a time.
func chunks[T any](items []T, fn func([]T) error) error {
	for start := 0; start < len(items); start += maxRows {
		if err := fn(items[start:min(start+maxRows, len(items))]); err != nil {
			return err
		}
	}
	return nil
}

// clip shortens a text to what a column holds, at a rune's boundary. What no column holds, because it is no text, is
// replaced: errors may quote whatever a server has answered.
func clip(s string, limit int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) <= limit {
		return s
	}
	for limit > 0 && s[limit]&0xC0 == 0x80 {
		limit--
	}
	return s[:limit]
}
