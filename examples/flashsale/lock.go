package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
)

// lock keeps other runs out of a data folder. It is the lock of a SQLite file, because that works on every system and
// ends with the process, however the process ends.
func lock(ctx context.Context, dir string) (unlock func() error, err error) {
	db, err := sql.Open("sqlite", filepath.Join(dir, "lock.db")+"?_pragma=busy_timeout(0)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // the one that holds the lock
	if _, err := db.ExecContext(ctx, "BEGIN EXCLUSIVE"); err != nil {
		return nil, errors.Join(fmt.Errorf("the folder %s is in use: %w", dir, err), db.Close())
	}
	return db.Close, nil
}
