package uow_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/glebarez/sqlite"
	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
)

// claimItem is a claim as an inbox would make it: a row per caller, written when the transaction begins.
func claimItem(ctx context.Context, id int) context.Context {
	return uow.Prepare(ctx, "claims", id, func(ctx context.Context, ids []int) error {
		for _, id := range ids {
			if err := insert(ctx, 1000+id); err != nil {
				return err
			}
		}
		return nil
	})
}

// With so many failing parts that the group runs with savepoints, what was prepared for a part still goes with it.
func TestRule02_ClaimsOfManyFailingPartsAreUndone(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, one(uow.Config{}))
		const n = 8
		release := holdWriter(t, u)
		errs := make(chan error, n)
		for i := range n {
			waiting := uow.Waiting(u)
			go func() {
				errs <- u.Do(claimItem(t.Context(), i), func(ctx context.Context) error {
					if err := insert(ctx, i); err != nil {
						return err
					}
					if i < n-1 {
						return errNo
					}
					return nil
				})
			}()
			for uow.Waiting(u) == waiting {
				runtime.Gosched()
			}
		}
		release()
		for range n {
			if err := <-errs; err != nil && !errors.Is(err, errNo) {
				t.Error(err)
			}
		}
		if got := count(t, db, "id < 1000"); got != 1 {
			t.Errorf("%d rows of parts, want 1", got)
		}
		if got := count(t, db, "id >= 1000"); got != 1 {
			t.Errorf("%d claims, want 1: a part that failed has left its claim behind", got)
		}
	})
}

// gorm's own nested transaction sets savepoints too; one that fails must not take ours with it.
func TestNestedGormTransactionThatFailsInsideANestedDo(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, uow.Config{})
		err := u.Do(t.Context(), func(ctx context.Context) error {
			return u.Do(ctx, func(ctx context.Context) error {
				err := uow.DB(ctx).Transaction(func(tx *gorm.DB) error {
					if err := tx.Exec("INSERT INTO items (id) VALUES (1)").Error; err != nil {
						return err
					}
					return errNo
				})
				if !errors.Is(err, errNo) {
					return fmt.Errorf("inner transaction: %w", err)
				}
				return insert(ctx, 2)
			})
		})
		if err != nil {
			t.Errorf("Do: %v", err)
		}
		if got := count(t, db, "id = 2"); got != 1 {
			t.Errorf("%d rows, want 1", got)
		}
	})
}

// A hook that ends its goroutine, as t.FailNow does, must not leave all callers waiting for ever.
func TestRule06_HookThatEndsItsGoroutine(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	for name, hook := range map[string]func(ctx context.Context) error{
		"flush": func(ctx context.Context) error {
			return uow.BeforeCommit(ctx, "o", func(context.Context, []int) error { runtime.Goexit(); return nil }, 1)
		},
		"after": func(ctx context.Context) error { return uow.AfterCommit(ctx, runtime.Goexit) },
		"panic": func(ctx context.Context) error { return uow.AfterCommit(ctx, func() { panic("hook") }) },
	} {
		t.Run(name, func(t *testing.T) {
			u, err := uow.New(db, uow.Config{Writers: 1})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- u.Do(t.Context(), hook) }()
			select {
			case err := <-done:
				if (err != nil) != (name == "flush") {
					t.Errorf("Do: %v", err)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("the caller still waits")
			}
			if err := u.Do(t.Context(), func(context.Context) error { return nil }); err != nil {
				t.Error(err)
			}
		})
	}
}

// A transaction that cannot even begin is nobody's fault; taking the group apart only repeats the wait.
func TestBeginThatFailsIsNotRepeatedForEveryPart(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	u := unit(t, db, one(uow.Config{PartTimeout: 2 * time.Second}))
	pool, err := db.DB()
	if err != nil {
		t.Fatal(err)
	}
	pool.SetMaxOpenConns(1)
	release := holdWriter(t, u)
	const n = 32
	errs := make(chan error, n)
	for range n {
		waiting := uow.Waiting(u)
		go func() { errs <- u.Do(t.Context(), func(context.Context) error { return nil }) }()
		for uow.Waiting(u) == waiting {
			runtime.Gosched()
		}
	}
	taken := make(chan func(), 1)
	go func() {
		c, err := pool.Conn(context.Background())
		if err != nil {
			t.Error(err)
		}
		taken <- func() { _ = c.Close() }
	}()
	for pool.Stats().WaitCount == 0 { // until it is next in line
		runtime.Gosched()
	}
	began := time.Now()
	release()
	giveBack := <-taken
	for range n {
		if err := <-errs; err == nil {
			t.Error("no connection, and no error")
		}
	}
	giveBack()
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("32 callers waited %v for a connection, want little more than 2 s", d)
	}
}

// What a hung part writes after it was cut off is not committed by itself.
func TestRule08_HungPartDoesNotAutocommit(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	u := unit(t, db, one(uow.Config{PartTimeout: 30 * time.Millisecond}))
	for range 20 {
		err := u.Do(t.Context(), func(ctx context.Context) error {
			return u.Do(ctx, func(ctx context.Context) error {
				tx := uow.DB(context.WithoutCancel(ctx))
				for {
					if err := tx.Exec("INSERT INTO items (n) VALUES (1)").Error; err != nil {
						return err
					}
				}
			})
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
	if got := count(t, db, "1 = 1"); got != 0 {
		t.Errorf("%d rows of hung parts are there, want none", got)
	}
}

// A constraint may end SQLite's transaction; nothing may be written by itself after that.
func TestRule08_ConstraintThatRollsBackOnSQLite(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	u := unit(t, db, one(uow.Config{}))
	exec(t, db, "INSERT INTO items (id) VALUES (1)")
	err := u.Do(t.Context(), func(ctx context.Context) error {
		if err := insert(ctx, 2); err != nil {
			return err
		}
		_ = uow.DB(ctx).Exec("INSERT OR ROLLBACK INTO items (id) VALUES (1)").Error
		_ = insert(ctx, 3)
		return errNo
	})
	if err == nil {
		t.Error("no error")
	}
	if got := count(t, db, "id > 1"); got != 0 {
		t.Errorf("%d rows are there, want none: one was written outside of the transaction", got)
	}
}

// A part that is cut off while it reads rows does not hold up the others.
func TestRule06_HungPartWithOpenRows(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, one(uow.Config{PartTimeout: 2 * time.Second}))
		exec(t, db, "INSERT INTO items (id) VALUES (1)")
		exec(t, db, "INSERT INTO items (id) VALUES (2)")
		stop, hung := make(chan struct{}), make(chan error, 1)
		started := make(chan struct{})
		go func() {
			hung <- u.Do(t.Context(), func(ctx context.Context) error {
				rows, err := uow.DB(ctx).Raw("SELECT id FROM items").Rows()
				if err != nil {
					return err
				}
				defer func() { _ = rows.Close() }()
				rows.Next()
				close(started)
				<-stop
				return rows.Err()
			})
		}()
		select {
		case <-started:
		case err := <-hung:
			t.Fatal("it ended before it hung:", err)
		}
		done := make(chan error, 1)
		go func() { done <- u.Do(t.Context(), func(ctx context.Context) error { return insert(ctx, 3) }) }()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(5 * time.Second):
			t.Error("a neighbor waits for a part that was cut off")
		}
		close(stop)
		if err := <-hung; !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// A function that writes is undone if its statement begins with WITH, as the package's documentation demands.
func TestFunctionThatWrites(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	u := unit(t, db, uow.Config{})
	exec(t, db, "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'INSERT INTO items (id) VALUES (1) RETURNING id'")
	err := u.Do(t.Context(), func(ctx context.Context) error {
		var n int
		if err := uow.DB(ctx).Raw("WITH w AS (SELECT f()) SELECT * FROM w").Scan(&n).Error; err != nil {
			return err
		}
		return errNo
	})
	if !errors.Is(err, errNo) {
		t.Error(err)
	}
	if got := count(t, db, "1 = 1"); got != 0 {
		t.Errorf("%d rows, want none", got)
	}
}

// SQLite rolls back by itself when a write finds no room. The connection is as good as before, and in memory it is the
// database.
func TestInMemoryOutlivesWhatSQLiteRollsBack(t *testing.T) {
	t.Parallel()
	db := open(t, sqlite.Open(":memory:"))
	u := unit(t, db, uow.Config{})
	for _, q := range []string{"CREATE TABLE large (b BLOB)", "INSERT INTO items (id) VALUES (1)", "PRAGMA max_page_count = 30"} {
		exec(t, db, q)
	}
	err := u.Do(t.Context(), func(ctx context.Context) error {
		err := insert(ctx, 2)
		return errors.Join(err, uow.DB(ctx).Exec("INSERT INTO large VALUES (zeroblob(1000000))").Error)
	})
	if err == nil {
		t.Error("there was room")
	}
	if got := count(t, db, "true"); got != 1 {
		t.Errorf("%d rows, want the one that was there", got)
	}
}
