package idempotency

import (
	"context"
	"embed"
	"io/fs"

	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
)

//go:embed migrations
var embedded embed.FS

// Migrate creates or updates the tables idempotency_keys and idempotency_inbox. It is safe to repeat.
func Migrate(ctx context.Context, db *gorm.DB) error {
	return uow.Migrate(ctx, db, "idempotency", sub("migrations"))
}

// Migrations returns the numbered SQL files of a dialect (postgres, mysql or sqlite), for other migration tools.
// For any other dialect the file system is empty.
func Migrations(dialect string) fs.FS { return sub("migrations/" + dialect) }

func sub(dir string) fs.FS {
	if _, err := fs.ReadDir(embedded, dir); err != nil {
		return embed.FS{}
	}
	files, _ := fs.Sub(embedded, dir)
	return files
}
