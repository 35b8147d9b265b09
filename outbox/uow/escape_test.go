package uow_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"strings"
	"testing"

	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
)

// A statement that failed may have changed rows all the same: they are undone with the part.
func TestRule01_FailedStatementThatChangedRows(t *testing.T) {
	t.Parallel()
	for _, query := range []string{
		"INSERT OR FAIL INTO items (id) VALUES (1), (2), (100)",
		"INSERT INTO strict (id) VALUES (1), (2), (100)",
		"INSERT INTO guarded (id) VALUES (1), (2), (100)",
		"INSERT INTO items (id) VALUES (1); INSERT INTO items (id) VALUES (100)",
		"INSERT INTO items (id) VALUES (1); DELETE FROM items WHERE id = 77",
	} {
		t.Run(query, func(t *testing.T) {
			t.Parallel()
			db := openSQLite(t)
			u := unit(t, db, uow.Config{})
			for _, q := range []string{
				"INSERT INTO items (id) VALUES (100)",
				"CREATE TABLE strict (id INTEGER UNIQUE ON CONFLICT FAIL)", "INSERT INTO strict (id) VALUES (100)",
				"CREATE TABLE guarded (id INTEGER)",
				`CREATE TRIGGER guard BEFORE INSERT ON guarded WHEN NEW.id = 100 BEGIN SELECT RAISE(FAIL, 'no'); END`,
			} {
				exec(t, db, q)
			}
			err := u.Do(t.Context(), func(ctx context.Context) error {
				return errors.Join(uow.DB(ctx).Exec(query).Error, errNo)
			})
			var n int
			if err := db.Raw(`SELECT count(*) FROM (SELECT id FROM items UNION ALL SELECT id FROM strict UNION ALL
				SELECT id FROM guarded) WHERE id < 100`).Row().Scan(&n); err != nil {
				t.Fatal(err)
			}
			if !errors.Is(err, errNo) || n != 0 {
				t.Errorf("Do returned %q, and %d rows are there", err, n)
			}
		})
	}
}

// GORM's sessions with prepared statements stay in the transaction, or are refused: on MySQL a deadlock that such a
// statement meets, and fn passes over, would have what follows commit by itself.
func TestPreparedSessionsStayInTheTransaction(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, uow.Config{})
		prepared := &gorm.Session{PrepareStmt: true}
		var n int64
		if err := db.Session(prepared).Raw("SELECT count(*) FROM items").Scan(&n).Error; err != nil { // now in GORM's cache
			t.Fatal(err)
		}
		do := func(end error) error {
			return u.Do(t.Context(), func(ctx context.Context) error {
				tx := uow.DB(ctx).Session(prepared)
				return errors.Join(tx.Exec(insertItem, 1).Error, tx.Raw("SELECT count(*) FROM items").Scan(&n).Error, end)
			})
		}
		if err := do(errNo); err == nil || count(t, db, "true") != 0 {
			t.Errorf("%v, and %d rows are there", err, count(t, db, "true"))
		}
		err := do(nil)
		if db.Name() != "postgres" {
			if err == nil || !strings.Contains(err.Error(), "PrepareStmt") || count(t, db, "true") != 0 {
				t.Errorf("%v, and %d rows are there", err, count(t, db, "true"))
			}
		} else if err != nil || n != 1 || count(t, db, "true") != 1 {
			t.Errorf("%v; it saw %d of its rows, and %d are there", err, n, count(t, db, "true"))
		}
	})
}

// There is no other connection to be had in a transaction.
func TestConnectionIsRefused(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, uow.Config{})
		err := u.Do(t.Context(), func(ctx context.Context) error {
			return uow.DB(ctx).Connection(func(tx *gorm.DB) error { return tx.Exec(insertItem, 1).Error })
		})
		if err == nil || count(t, db, "true") != 0 {
			t.Errorf("%v, and %d rows are there", err, count(t, db, "true"))
		}
	})
}

// What a GORM transaction inside a part has gathered is undone with it.
func TestARolledBackSavepointLeavesNothingGathered(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, uow.Config{})
		var flushed, hooked []int
		gathers := func(ctx context.Context, id int) error {
			return errors.Join(insert(ctx, id),
				uow.AfterCommit(ctx, func() { hooked = append(hooked, id) }),
				uow.BeforeCommit(ctx, t, func(_ context.Context, ids []int) error { flushed = ids; return nil }, id))
		}
		err := u.Do(t.Context(), func(ctx context.Context) error {
			inner := func(id int, end error) {
				err := uow.DB(ctx).Transaction(func(*gorm.DB) error { return errors.Join(gathers(ctx, id), end) })
				if !errors.Is(err, end) {
					t.Errorf("the inner transaction returned %v, want %v", err, end)
				}
			}
			if err := gathers(ctx, 1); err != nil {
				return err
			}
			inner(2, errNo)
			inner(3, nil)
			inner(4, errNo)
			return nil
		})
		if err != nil || count(t, db, "true") != 2 || len(flushed) != 2 || flushed[1] != 3 || len(hooked) != 2 {
			t.Errorf("%v; %d rows, flushed %v, hooks of %v", err, count(t, db, "true"), flushed, hooked)
		}
	})
}

// A nilError is what a nil pointer becomes when it is returned as an error.
type nilError struct{ inner error }

func (e *nilError) Error() string { return "nil" }
func (e *nilError) Unwrap() error { return e.inner }

// An error that panics when it is looked at is the panic of the part that returned it.
func TestAnErrorThatPanics(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, uow.Config{Writers: 1})
		errs := together(t, u,
			func(ctx context.Context) error { return insert(ctx, 1) },
			func(context.Context) error { return (*nilError)(nil) },
			func(ctx context.Context) error { return insert(ctx, 2) },
		)
		if errs[0] != nil || errs[2] != nil || errs[1] == nil || !strings.HasPrefix(errs[1].Error(), "panicked") {
			t.Errorf("%q", errs)
		}
		err := u.Do(t.Context(), func(ctx context.Context) error {
			return uow.BeforeCommit(ctx, t, func(context.Context, []int) error { return (*nilError)(nil) }, 1)
		})
		if err == nil {
			t.Error("a hook's error was taken for none")
		}
		if n := count(t, db, "true"); n != 2 {
			t.Errorf("%d rows, want the neighbors' 2", n)
		}
	})
}

func TestAnOwnerThatIsNotComparable(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("Prepare took an owner that cannot be compared")
		}
	}()
	uow.Prepare(t.Context(), []string{"owner"}, 1, func(context.Context, []int) error { return nil })
}

type badConn struct{}

func (badConn) Exec(context.Context, any, []uow.Statement) ([]int64, error) {
	return nil, driver.ErrBadConn
}

type explosive struct{}

func (explosive) Value() (driver.Value, error) { panic("boom") }

// A Pipeline that panics on an argument, or loses its connection, costs whose statement it is, and no more.
func TestAPipelineThatBreaks(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	u := unit(t, db, uow.Config{Writers: 1})
	errs := together(t, u,
		queueItem(1),
		func(ctx context.Context) error { return uow.Queue(ctx, insertItem, explosive{}) },
		queueItem(2),
	)
	if errs[0] != nil || errs[2] != nil || errs[1] == nil {
		t.Errorf("%q", errs)
	}
	lost, err := uow.New(db, uow.Config{Pipeline: badConn{}, Retries: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := lost.Do(t.Context(), queueItem(3)); !errors.Is(err, driver.ErrBadConn) {
		t.Errorf("a lost connection: %v", err)
	}
	if n := count(t, db, "true"); n != 2 {
		t.Errorf("%d rows, want 2", n)
	}
}

// A statement that failed as a whole is no write: its part costs the neighbors nothing.
func TestAFailedStatementIsNoWrite(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	u := unit(t, db, uow.Config{Writers: 1})
	exec(t, db, insertItem, 100)
	errs := together(t, u,
		func(ctx context.Context) error { return insert(ctx, 1) },
		func(ctx context.Context) error { return insert(ctx, 100) },
	)
	if s := u.Stats(); errs[0] != nil || errs[1] == nil || s.Restarts != 0 {
		t.Errorf("%q, %+v", errs, s)
	}
}

// Only the unit of work begins, commits and rolls back, however it is said: what comes after would commit by itself.
func TestStatementsThatEndTheTransactionAreRefused(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, uow.Config{})
		for _, query := range []string{
			"COMMIT", "rollback", "ROLLBACK WORK;", "-- so\nEND", "BEGIN", "START TRANSACTION", "ABORT", "COMMIT AND CHAIN",
		} {
			err := u.Do(t.Context(), func(ctx context.Context) error {
				tx := uow.DB(ctx)
				for _, err := range []error{
					tx.Exec(query).Error, uow.Queue(ctx, query), tx.Raw(query).Row().Err(),
					tx.Session(&gorm.Session{PrepareStmt: true}).Exec(query).Error,
				} {
					if err == nil {
						t.Errorf("%s was not refused", query)
					}
				}
				return errors.Join(insert(ctx, 1), errNo)
			})
			if !errors.Is(err, errNo) || errors.Is(err, uow.ErrDoomed) || count(t, db, "true") != 0 {
				t.Errorf("%s: %v, and %d rows are there", query, err, count(t, db, "true"))
			}
		}
	})
}
