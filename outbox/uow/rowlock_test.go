package uow_test

import (
	"context"
	"database/sql"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
)

// deadlocked has a SELECT become the victim of a deadlock while its rows are read: it meets the rows that other has
// locked, which waits for a row of ours and has changed more than we have.
func deadlocked(t *testing.T, db *gorm.DB) (arrange func(), read func(tx *gorm.DB) error) {
	t.Helper()
	exec(t, db, "CREATE TABLE stock (id INTEGER PRIMARY KEY, k INTEGER NOT NULL, n INTEGER NOT NULL, KEY (k))")
	for i := range 60 {
		exec(t, db, "INSERT INTO stock VALUES (?, ?, 0)", i, i%6)
	}
	exec(t, db, "INSERT INTO stock VALUES (500, 500, 0), (1000, 100, 0), (1001, 101, 0)")
	other := db.Begin()
	if err := other.Exec("UPDATE stock SET n = n + 100 WHERE id < 60").Error; err != nil {
		t.Fatal(err)
	}
	var id int
	if err := other.Raw("SELECT connection_id()").Row().Scan(&id); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { <-ended })
	arrange = func() {
		go func() {
			defer close(ended)
			other.Exec("UPDATE stock SET n = n + 100 WHERE id = 1000")
			other.Rollback()
		}()
		waits := "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = ? AND trx_state = 'LOCK WAIT'"
		look := time.NewTicker(150 * time.Millisecond) // what InnoDB tells is 100 ms old at most, unless it is asked more often
		defer look.Stop()
		for n := 0; n == 0; <-look.C {
			if err := db.Raw(waits, id).Row().Scan(&n); err != nil {
				t.Error(err)
				return
			}
		}
	}
	return arrange, func(tx *gorm.DB) error {
		var ids []int
		return tx.Raw("SELECT id FROM stock WHERE k IN (3, 4) AND n >= 0 FOR UPDATE").Scan(&ids).Error
	}
}

func addTo(ctx context.Context, id int) error {
	return uow.DB(ctx).Exec("UPDATE stock SET n = n + 1 WHERE id = ?", id).Error
}

// A deadlock that is reported while rows are read has ended the transaction, whoever sees it and whatever fn makes of
// it: nothing of it commits, and it runs again.
func TestRule08_DeadlockWhileRowsAreRead(t *testing.T) {
	t.Parallel()
	for name, reading := range map[string]func(u *uow.UnitOfWork, ctx context.Context, read func(*gorm.DB) error) error{
		"passed on": func(_ *uow.UnitOfWork, ctx context.Context, read func(*gorm.DB) error) error {
			return read(uow.DB(ctx))
		},
		"swallowed": func(_ *uow.UnitOfWork, ctx context.Context, read func(*gorm.DB) error) error {
			_ = read(uow.DB(ctx))
			return nil
		},
		"swallowed around a nested part": func(u *uow.UnitOfWork, ctx context.Context, read func(*gorm.DB) error) error {
			_ = u.Do(ctx, func(ctx context.Context) error { return read(uow.DB(ctx)) })
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := openMySQL(t)
			u := unit(t, db, uow.Config{})
			arrange, read := deadlocked(t, db)
			runs := 0
			err := u.Do(t.Context(), func(ctx context.Context) error {
				if err := addTo(ctx, 1000); err != nil {
					return err
				}
				if runs++; runs == 1 {
					arrange()
				}
				if err := reading(u, ctx, read); err != nil {
					return err
				}
				return addTo(ctx, 1001)
			})
			var n int
			if err := db.Raw("SELECT sum(n) FROM stock WHERE id >= 1000").Row().Scan(&n); err != nil {
				t.Fatal(err)
			}
			if err != nil || n != 2 || runs != 2 {
				t.Errorf("%v after %d runs, %d of 2 changes", err, runs, n)
			}
		})
	}
}

// What is read to its end before fn sees it looks like what the driver returns.
func TestLockingReadsReturnWhatOthersReturn(t *testing.T) {
	t.Parallel()
	db := openMySQL(t)
	u := unit(t, db, uow.Config{})
	exec(t, db, "CREATE TABLE things (id BIGINT PRIMARY KEY, name TEXT, price DECIMAL(9,2), at DATETIME(6), raw BLOB)")
	exec(t, db, "INSERT INTO things VALUES (1, 'hat', 9.50, '2026-01-02 03:04:05.6', x'00ff'), (2, NULL, NULL, NULL, NULL)")
	err := u.Do(t.Context(), func(ctx context.Context) error {
		var plain, locking []map[string]any
		query := "SELECT * FROM things WHERE id > ? ORDER BY id"
		if err := uow.DB(ctx).Raw(query, 0).Scan(&plain).Error; err != nil {
			return err
		}
		if err := uow.DB(ctx).Raw(query+" FOR UPDATE", 0).Scan(&locking).Error; err != nil {
			return err
		}
		if !reflect.DeepEqual(plain, locking) || len(plain) != 2 {
			t.Errorf("%v, want %v", locking, plain)
		}
		var name string
		err := uow.DB(ctx).Raw("SELECT name FROM things WHERE id = ? FOR UPDATE", 1).Row().Scan(&name)
		if err != nil || name != "hat" {
			t.Errorf("%q, %v", name, err)
		}
		err = uow.DB(ctx).Raw("SELECT name FROM things WHERE id = ? FOR UPDATE", 3).Row().Scan(&name)
		if !errors.Is(err, sql.ErrNoRows) {
			t.Errorf("no row: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// PostgreSQL has sent the first row when the second one turns out to be somebody else's: it runs again, as any deadlock.
func TestRule08_DeadlockInTheSecondRow(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	u := unit(t, db, one(uow.Config{}))
	exec(t, db, "INSERT INTO items (id) VALUES (101), (102), (103)")
	rival := db.Begin()
	defer rival.Rollback()
	exec(t, rival, "SET LOCAL deadlock_timeout = '60s'") // the other one is the victim
	exec(t, rival, "UPDATE items SET n = 1 WHERE id = 102")
	ended := make(chan error, 1)
	runs := 0
	err := u.Do(t.Context(), func(ctx context.Context) error {
		if runs++; runs == 1 {
			if err := uow.DB(ctx).Exec("UPDATE items SET n = n WHERE id = 101").Error; err != nil {
				return err
			}
			go func() {
				ended <- errors.Join(rival.Exec("UPDATE items SET n = 2 WHERE id = 101").Error, rival.Commit().Error)
			}()
		}
		var ids []int
		return uow.DB(ctx).Raw("SELECT id FROM items ORDER BY id FOR UPDATE").Scan(&ids).Error
	})
	if err := errors.Join(err, <-ended); err != nil || runs != 2 {
		t.Errorf("%v after %d runs", err, runs)
	}
}

// An error that PostgreSQL finds after the first row is fn's own, and no neighbor's.
func TestRule08_ErrorInTheSecondRow(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	u := unit(t, db, one(uow.Config{}))
	bad := func(ctx context.Context) error {
		var ns []int
		return uow.DB(ctx).Raw("SELECT 1 / (2 - g) FROM generate_series(1, 2) AS g").Scan(&ns).Error
	}
	const divisionByZero = "22012"
	if err := u.Do(t.Context(), bad); err == nil || !strings.Contains(err.Error(), divisionByZero) {
		t.Errorf("alone: %v", err)
	}
	errs := together(t, u, bad, func(ctx context.Context) error { return insert(ctx, 2) })
	if errs[0] == nil || !strings.Contains(errs[0].Error(), divisionByZero) || errs[1] != nil {
		t.Errorf("together: %v", errs)
	}
	if got := count(t, db, "id = 2"); got != 1 {
		t.Errorf("%d rows of the neighbor", got)
	}
}

// A statement that fails inside GORM's own nested transaction, which rolls back to its savepoint, leaves a transaction
// that works, inside a nested Do as anywhere.
func TestFailedGormTransactionInsideANestedDo(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, uow.Config{})
		exec(t, db, "INSERT INTO items (id) VALUES (1)")
		err := u.Do(t.Context(), func(ctx context.Context) error {
			err := u.Do(ctx, func(ctx context.Context) error {
				err := uow.DB(ctx).Transaction(func(tx *gorm.DB) error { return tx.Exec(insertItem, 1).Error })
				if err == nil {
					return errors.New("the duplicate was taken")
				}
				return insert(ctx, 2)
			})
			return errors.Join(err, insert(ctx, 3))
		})
		if got := count(t, db, "id IN (2, 3)"); err != nil || got != 2 {
			t.Errorf("%v, %d rows", err, got)
		}
	})
}

// Two nested Dos of one part at a time could not be undone apart from each other.
func TestConcurrentNestedDos(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, uow.Config{})
		var second error
		err := u.Do(t.Context(), func(ctx context.Context) error {
			err := u.Do(ctx, func(context.Context) error {
				second = u.Do(ctx, func(ctx context.Context) error { return insert(ctx, 1) }) // of the outer part
				return errNo
			})
			if !errors.Is(err, errNo) {
				return err
			}
			return u.Do(ctx, func(ctx context.Context) error { return insert(ctx, 2) })
		})
		if err != nil || !errors.Is(second, uow.ErrConcurrent) || count(t, db, "true") != 1 || count(t, db, "id = 2") != 1 {
			t.Errorf("%v; the second: %v; %d rows", err, second, count(t, db, "true"))
		}
	})
}
