package uow_test

import (
	"context"
	"io/fs"
	"testing"
	"testing/fstest"
	"time"

	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
)

func nothing(db *gorm.DB) fs.FS { return fstest.MapFS{db.Name() + "/001_nothing.sql": {}} }

// On MySQL Migrate holds a lock on a connection of its own; with one connection it would wait for itself.
func TestMigrateWithOneConnection(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, db *gorm.DB) {
		pool, err := db.DB()
		if err != nil {
			t.Fatal(err)
		}
		pool.SetMaxOpenConns(1)
		if err := uow.Migrate(t.Context(), db, "test", nothing(db)); (err == nil) != (db.Name() == "postgres") {
			t.Error(err)
		}
	})
}

// Migrations of other databases on the same server do not wait for each other, and one without its lock does not go on.
func TestMigrateWaitsForItsLock(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, db *gorm.DB) {
		pool, err := db.DB()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := pool.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		lock := "SELECT pg_advisory_lock(7283010571)"
		if db.Name() == "mysql" {
			lock = "SELECT GET_LOCK(SHA1(CONCAT(DATABASE(), '.surge')), 90)"
		}
		if _, err := conn.ExecContext(t.Context(), lock); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if err := uow.Migrate(ctx, db, "test", nothing(db)); err == nil {
			t.Error("it went on while another process migrates")
		}
	})
}
