package uow

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"gorm.io/gorm"
)

// Migrate applies the numbered SQL files of a package that were not applied yet, in order, each in a transaction
// where the database has transactional DDL (PostgreSQL and SQLite). migrations holds one folder per dialect
// (postgres, mysql, sqlite) with files named 001_what.sql; statements end with a semicolon at the end of a line.
// What was applied is recorded in surge_migrations. It is safe to call from several processes at once.
// A process that dies may leave a file half applied on MySQL and MariaDB; the next call goes on with it.
// Applied files must never change.
func Migrate(ctx context.Context, db *gorm.DB, pkg string, migrations fs.FS) error {
	u, err := New(db, Config{MaxShare: 1, PartTimeout: -1})
	if err != nil {
		return err
	}
	files, err := fs.Glob(migrations, string(u.dialect)+"/[0-9]*_*.sql")
	if err != nil || len(files) == 0 {
		return errors.Join(fmt.Errorf("uow: %s has no migrations for %s", pkg, u.dialect), err)
	}
	unlock, err := u.lockMigrations(ctx)
	if err != nil {
		return fmt.Errorf("uow: migrate %s: %w", pkg, err)
	}
	defer unlock()
	err = u.migrate(ctx, func(ctx context.Context) error { return DB(ctx).Exec(migrationsTable).Error })
	if err != nil {
		return fmt.Errorf("uow: migrate %s: %w", pkg, err)
	}
	if err := u.applyAll(ctx, "uow", own, "migrations/"+string(u.dialect)); err != nil {
		return err
	}
	if u.dialect == mariadb {
		if err := u.sweepOutcomes(ctx); err != nil {
			return fmt.Errorf("uow: sweep uow_outcomes: %w", err)
		}
	}
	return u.applyAll(ctx, pkg, migrations, string(u.dialect))
}

// applyAll applies the files of a folder.
func (u *UnitOfWork) applyAll(ctx context.Context, pkg string, migrations fs.FS, folder string) error {
	files, err := fs.Glob(migrations, folder+"/[0-9]*_*.sql")
	if err != nil {
		return fmt.Errorf("uow: migrate %s: %w", pkg, err)
	}
	slices.Sort(files)
	for _, f := range files {
		if err := u.apply(ctx, pkg, migrations, f); err != nil {
			return fmt.Errorf("uow: migrate %s: %s: %w", pkg, f, err)
		}
	}
	return nil
}

//go:embed migrations
var own embed.FS

// Migrations returns the numbered SQL files of this package for people who run another migration tool; [Migrate]
// applies them before those of any package. There are some for mysql; for other dialects the file system is empty.
func Migrations(dialect string) fs.FS {
	folder := "migrations/" + dialect
	if _, err := fs.ReadDir(own, folder); err != nil {
		return embed.FS{}
	}
	files, _ := fs.Sub(own, folder)
	return files
}

const migrationsTable = `CREATE TABLE IF NOT EXISTS surge_migrations (
	package VARCHAR(64) NOT NULL,
	number INTEGER NOT NULL,
	PRIMARY KEY (package, number))`

func (u *UnitOfWork) apply(ctx context.Context, pkg string, migrations fs.FS, file string) error {
	number, err := strconv.Atoi(strings.SplitN(path.Base(file), "_", 2)[0])
	if err != nil {
		return err
	}
	text, err := fs.ReadFile(migrations, file)
	if err != nil {
		return err
	}
	underWay, resumes := -1-number, false
	err = u.migrate(ctx, func(ctx context.Context) error {
		var done int64
		err := DB(ctx).Raw("SELECT count(*) FROM surge_migrations WHERE package = ? AND number = ?", pkg, number).
			Row().Scan(&done)
		if err != nil || done > 0 {
			return err
		}
		if u.dialect == mariadb {
			begun := DB(ctx).Exec("INSERT IGNORE INTO surge_migrations (package, number) VALUES (?, ?)", pkg, underWay)
			if begun.Error != nil {
				return begun.Error
			}
			resumes = begun.RowsAffected == 0
		}
		for _, statement := range statements(string(text)) {
			_, err := DB(ctx).Statement.ConnPool.ExecContext(ctx, statement)
			if err != nil && (!resumes || !wasDone(err, statement)) {
				return err
			}
		}
		err = DB(ctx).Exec("INSERT INTO surge_migrations (package, number) VALUES (?, ?)", pkg, number).Error
		if err != nil {
			return err
		}
		return DB(ctx).Exec(forgetBegun, pkg, underWay).Error
	})
	if !resumes && wasDone(err, "INSERT") { // somebody else's: it must not be taken for ours the next time
		err = errors.Join(err, u.migrate(ctx, func(ctx context.Context) error {
			return DB(ctx).Exec(forgetBegun, pkg, underWay).Error
		}))
	}
	return err
}

// On MySQL and MariaDB each statement that creates or drops something commits: a file that is under way has a row of
// its own. Of such a file the statements whose work is there were done by the one who began it.
const forgetBegun = "DELETE FROM surge_migrations WHERE package = ? AND number = ?"

// wasDone reports whether MySQL refuses a statement because its work is done: the table (1050, 1051), column (1060,
// 1091) or index (1061, 1091) is there, or is gone, or the row is there.
func wasDone(err error, statement string) bool {
	var e *mysql.MySQLError
	if !errors.As(err, &e) {
		return false
	}
	switch e.Number {
	case 1050, 1051, 1060, 1061, 1091:
		return true
	case 1062: // an index that the rows do not fit is another matter
		return len(statement) >= 6 && strings.EqualFold(statement[:6], "INSERT")
	}
	return false
}

// statements splits at semicolons that end a line; comment lines are dropped.
func statements(text string) []string {
	var list []string
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "--") {
			continue
		}
		b.WriteString(line)
		if strings.HasSuffix(strings.TrimSpace(line), ";") {
			list = append(list, strings.TrimSuffix(strings.TrimSpace(b.String()), ";"))
			b.Reset()
		}
	}
	if rest := strings.TrimSpace(b.String()); rest != "" {
		list = append(list, rest)
	}
	return list
}

// migrate runs fn in a transaction while no other process migrates. PostgreSQL's lock is the transaction's and not the
// session's, which behind a pooler is everybody's. It is asked for again and again, so that ctx can end the waiting.
func (u *UnitOfWork) migrate(ctx context.Context, fn func(ctx context.Context) error) error {
	for {
		alone := true
		err := u.Do(ctx, func(ctx context.Context) error {
			if u.dialect == postgres {
				const lock = "SELECT pg_try_advisory_xact_lock(7283010571)" // any number
				if err := DB(ctx).Raw(lock).Row().Scan(&alone); err != nil || !alone {
					return err
				}
			}
			return fn(ctx)
		})
		if err != nil || alone {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("another process is migrating: %w", ctx.Err())
		}
	}
}

// lockMigrations keeps other processes from migrating at the same time, on MySQL and MariaDB, where a migration is
// several transactions. SQLite checks and applies each file under the database's one write lock.
func (u *UnitOfWork) lockMigrations(ctx context.Context) (unlock func(), err error) {
	if u.dialect != mariadb {
		return func() {}, nil
	}
	if u.sql.Stats().MaxOpenConnections == 1 {
		return nil, errors.New("uow: Migrate needs two connections, SetMaxOpenConns is 1")
	}
	conn, err := u.sql.Conn(ctx)
	if err != nil {
		return nil, err
	}
	const name = "(SHA1(CONCAT(DATABASE(), '.surge'))" // locks are the whole server's
	var got bool
	err = conn.QueryRowContext(ctx, "SELECT COALESCE(GET_LOCK"+name+", 60), 0)").Scan(&got)
	if err == nil && !got {
		err = errors.New("uow: another process has been migrating for a minute")
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return func() {
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), "SELECT RELEASE_LOCK"+name+")")
		_ = conn.Close()
	}, nil
}
