package saga

import (
	"context"
	"embed"
	"io/fs"

	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

//go:embed migrations
var migrations embed.FS

// Migrate creates or updates the package's tables: those of engines (saga_instances, saga_journal, saga_definitions)
// and of participants (saga_participants). It is safe to call from several processes at once.
func Migrate(ctx context.Context, db *gorm.DB) error {
	root, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	return uow.Migrate(ctx, db, "saga", root)
}

// Migrations returns the numbered SQL files of a dialect (postgres, mysql or sqlite), for other migration tools.
// It is empty for any other name.
func Migrations(dialect string) fs.FS {
	folder := "migrations/" + dialect
	if _, err := fs.ReadDir(migrations, folder); err != nil {
		return embed.FS{}
	}
	files, _ := fs.Sub(migrations, folder)
	return files
}
