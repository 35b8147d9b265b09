package gormstore

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

//go:embed migrations
var embedded embed.FS

func migrations() fs.FS {
	root, err := fs.Sub(embedded, "migrations")
	if err != nil {
		panic(err) // impossible: the folder is embedded
	}
	return root
}

// Migrate applies the package's migrations that db does not have yet, each once. It is safe to call
// from several processes at the same time.
func Migrate(ctx context.Context, db *gorm.DB) error {
	if err := uow.Migrate(ctx, db, "cqrs", migrations()); err != nil {
		return fmt.Errorf("gormstore: %w", err)
	}
	return nil
}

// Migrations returns the SQL files for a dialect ("postgres", "mysql" or "sqlite"), for people who run
// goose or golang-migrate instead of [Migrate]. It is empty for any other dialect.
func Migrations(dialect string) fs.FS {
	if _, err := fs.ReadDir(migrations(), dialect); err != nil {
		return embed.FS{}
	}
	files, _ := fs.Sub(migrations(), dialect)
	return files
}
