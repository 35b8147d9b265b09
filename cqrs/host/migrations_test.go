package host_test

import (
	"io/fs"
	"testing"

	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
)

// People who run another migration tool get every package's files, and nothing where there is none.
func TestMigrationsForOtherTools(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files func(dialect string) fs.FS
		count map[string]int
	}{
		"uow":         {uow.Migrations, map[string]int{"mysql": 1}},
		"outbox":      {outbox.Migrations, map[string]int{"postgres": 2, "mysql": 2, "sqlite": 2}},
		"idempotency": {idempotency.Migrations, map[string]int{"postgres": 1, "mysql": 1, "sqlite": 1}},
		"gormstore":   {gormstore.Migrations, map[string]int{"postgres": 3, "mysql": 3, "sqlite": 3}},
		"saga":        {saga.Migrations, map[string]int{"postgres": 1, "mysql": 1, "sqlite": 1}},
	} {
		for _, dialect := range []string{"postgres", "mysql", "sqlite", "oracle", "", ".."} {
			files, err := fs.ReadDir(c.files(dialect), ".")
			if err != nil || len(files) != c.count[dialect] {
				t.Errorf("%s for %q: %d files, want %d, %v", name, dialect, len(files), c.count[dialect], err)
			}
		}
	}
}
