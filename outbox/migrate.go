package outbox

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

//go:embed migrations
var migrations embed.FS

// Migrate creates or updates the package's tables, whose names begin with outbox. It is safe to call at every
// start and from several processes at once.
func Migrate(ctx context.Context, db *gorm.DB) error {
	root, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("outbox: migrations: %w", err)
	}
	return uow.Migrate(ctx, db, "outbox", root)
}

// Migrations returns the numbered SQL files of a dialect (postgres, mysql or sqlite) for people who run another
// migration tool. For an unknown dialect the file system is empty.
func Migrations(dialect string) fs.FS {
	folder := "migrations/" + dialect
	if _, err := fs.ReadDir(migrations, folder); err != nil {
		return embed.FS{}
	}
	files, _ := fs.Sub(migrations, folder)
	return files
}
