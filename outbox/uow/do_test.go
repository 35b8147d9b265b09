package uow_test

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/glebarez/sqlite"
	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
)

var errNo = errors.New("no")

func one(cfg uow.Config) uow.Config {
	cfg.Writers = 1
	return cfg
}

func TestConcurrentCallersShareCommits(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, one(uow.Config{}))
		var fns []func(context.Context) error
		for i := range 64 {
			fns = append(fns, func(ctx context.Context) error { return insert(ctx, i) })
		}
		before := u.Stats().Commits
		if err := errors.Join(together(t, u, fns...)...); err != nil {
			t.Fatal(err)
		}
		if got := u.Stats().Commits - before; got != 2 { // the one that held the writer, and theirs
			t.Errorf("64 callers took %d commits, want 2", got)
		}
		if got := count(t, db, "1 = 1"); got != 64 {
			t.Errorf("%d rows, want 64", got)
		}
	})
}

// A business error by a part that changed nothing keeps its place: nobody runs again.
func TestRule01_RefusalWithoutWriteCostsNothing(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, one(uow.Config{}))
		exec(t, db, "INSERT INTO items (id, n) VALUES (1, 0)")
		var runs atomic.Int64
		var flushed []int
		part := func(id int) func(context.Context) error {
			return func(ctx context.Context) error {
				runs.Add(1)
				if id%2 == 0 {
					return insert(ctx, id+10)
				}
				_ = uow.BeforeCommit(ctx, "msgs", func(_ context.Context, ids []int) error {
					flushed = append(flushed, ids...)
					return nil
				}, id)
				res := uow.DB(ctx).Exec("UPDATE items SET n = n - 1 WHERE id = 1 AND n > 0") // sold out
				if res.Error == nil && res.RowsAffected == 0 {
					return errNo
				}
				return res.Error
			}
		}
		errs := together(t, u, part(0), part(1), part(2), part(3))
		for i, err := range errs {
			if (err != nil) != (i%2 == 1) {
				t.Errorf("part %d: %v", i, err)
			}
		}
		if runs.Load() != 4 || u.Stats().Restarts != 0 {
			t.Errorf("%d runs, %d restarts, want 4 and 0", runs.Load(), u.Stats().Restarts)
		}
		if len(flushed) != 0 {
			t.Errorf("refused parts left %v behind", flushed)
		}
		if got := count(t, db, "id >= 10"); got != 2 {
			t.Errorf("%d neighbors committed, want 2", got)
		}
	})
}

// A part that fails after a write is undone alone, without savepoints in the ordinary path.
func TestRule01_FailureAfterWriteUndoesOnlyItself(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, one(uow.Config{}))
		var runs [8]atomic.Int64
		var flushed []int
		var fns []func(context.Context) error
		for i := range runs {
			fns = append(fns, func(ctx context.Context) error {
				runs[i].Add(1)
				if err := insert(ctx, i); err != nil {
					return err
				}
				err := uow.BeforeCommit(ctx, "msgs", func(_ context.Context, ids []int) error {
					flushed = ids
					return nil
				}, i)
				if i == 3 {
					return errNo
				}
				return err
			})
		}
		errs := together(t, u, fns...)
		for i, err := range errs {
			if (i == 3) != errors.Is(err, errNo) {
				t.Errorf("part %d: %v", i, err)
			}
		}
		if count(t, db, "1 = 1") != 7 || count(t, db, "id = 3") != 0 {
			t.Error("the failed part's row is there, or a neighbor's is not")
		}
		if len(flushed) != 7 {
			t.Errorf("flushed %v, want all but 3", flushed)
		}
		if runs[3].Load() != 2 {
			t.Errorf("the part that failed ran %d times, want once with its neighbors and once alone", runs[3].Load())
		}
	})
}

// More failures than restarts: the rest runs with savepoints, and still each fails alone.
func TestRule01_ManyFailures(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, one(uow.Config{}))
		var runs atomic.Int64
		var fns []func(context.Context) error
		for i := range 40 {
			fns = append(fns, func(ctx context.Context) error {
				runs.Add(1)
				if err := insert(ctx, i); err != nil {
					return err
				}
				if i%2 == 1 {
					return errNo
				}
				return nil
			})
		}
		for i, err := range together(t, u, fns...) {
			if (i%2 == 1) != (err != nil) {
				t.Errorf("part %d: %v", i, err)
			}
		}
		if got := count(t, db, "1 = 1"); got != 20 {
			t.Errorf("%d rows, want 20", got)
		}
		if runs.Load() > 5*40 {
			t.Errorf("%d runs for 40 parts", runs.Load())
		}
	})
}

func TestNestedFailureUndoesTheInnerPartOnly(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, one(uow.Config{}))
		part := func(base int) func(context.Context) error {
			return func(ctx context.Context) error {
				if err := insert(ctx, base); err != nil {
					return err
				}
				err := u.Do(ctx, func(ctx context.Context) error {
					if err := insert(ctx, base+1); err != nil {
						return err
					}
					if err := insert(ctx, base+1); err == nil { // the statement fails too
						t.Error("a doubled key was taken")
					}
					return errNo
				})
				if !errors.Is(err, errNo) {
					return err
				}
				return insert(ctx, base+2)
			}
		}
		if err := errors.Join(together(t, u, part(0), part(10), part(20))...); err != nil {
			t.Fatal(err)
		}
		for _, id := range []int{0, 2, 10, 12, 20, 22} {
			if count(t, db, "id = ?", id) != 1 {
				t.Errorf("row %d is missing", id)
			}
		}
		if got := count(t, db, "1 = 1"); got != 6 {
			t.Errorf("%d rows, want 6: an inner part was not undone", got)
		}
	})
}

func TestPanicGoesOnInItsCallerAlone(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	u := unit(t, db, one(uow.Config{}))
	errs := together(t, u,
		func(ctx context.Context) error { return insert(ctx, 1) },
		func(ctx context.Context) error {
			_ = insert(ctx, 2)
			panic("boom")
		},
		func(ctx context.Context) error {
			_ = insert(ctx, 3)
			runtime.Goexit()
			return nil
		},
		func(context.Context) error { panic("before a write") },
		func(ctx context.Context) error { return insert(ctx, 4) },
	)
	if errs[0] != nil || errs[4] != nil || errs[1] == nil || !strings.Contains(errs[1].Error(), "boom") || errs[3] == nil {
		t.Errorf("%v", errs)
	}
	if count(t, db, "1 = 1") != 2 {
		t.Error("the neighbors' rows alone should be there")
	}
}

// A hung fn is cut off from the transaction; the neighbors go on, and its late statement is refused.
func TestRule06_HungPart(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, one(uow.Config{PartTimeout: 3 * time.Second}))
		release := make(chan struct{})
		late := make(chan error, 1)
		var once sync.Once
		neighbor := func(id int) func(context.Context) error {
			return func(ctx context.Context) error {
				if id == 3 {
					once.Do(func() { time.AfterFunc(100*time.Millisecond, func() { close(release) }) })
				}
				return insert(ctx, id)
			}
		}
		errs := together(t, u, neighbor(1),
			func(ctx context.Context) error {
				if err := insert(ctx, 2); err != nil {
					return err
				}
				<-release
				late <- insert(context.WithoutCancel(ctx), 5)
				return nil
			}, neighbor(3))
		if errs[0] != nil || errs[2] != nil || !errors.Is(errs[1], context.DeadlineExceeded) {
			t.Errorf("%v", errs)
		}
		if err := <-late; !errors.Is(err, uow.ErrNoTransaction) {
			t.Errorf("late statement: %v", err)
		}
		if count(t, db, "1 = 1") != 2 {
			t.Error("want the neighbors' rows and no other")
		}
	})
}

// Callers' contexts are looked at only before fn starts.
func TestRule06_CallersCancellation(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	u := unit(t, db, one(uow.Config{}))
	release := holdWriter(t, u)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { left <- u.Do(ctx, func(ctx context.Context) error { return insert(ctx, 1) }) }()
	for uow.Waiting(u) == 0 {
	}
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("one who left the queue got %v", err)
	}
	release()
	ctx, cancel = context.WithCancel(t.Context())
	err := u.Do(ctx, func(ctx context.Context) error {
		cancel() // hangs up while fn runs
		if ctx.Err() != nil {
			t.Error("fn's context ended with its caller's")
		}
		return insert(ctx, 2)
	})
	if err != nil || count(t, db, "id = 1") != 0 || count(t, db, "id = 2") != 1 {
		t.Errorf("%v, rows %d and %d, want 0 and 1", err, count(t, db, "id = 1"), count(t, db, "id = 2"))
	}
}

func TestRule07_OtherUnitIsRefused(t *testing.T) {
	t.Parallel()
	u, v := unit(t, openSQLite(t), uow.Config{}), unit(t, openSQLite(t), uow.Config{})
	err := u.Do(t.Context(), func(ctx context.Context) error {
		return v.Do(ctx, func(context.Context) error { return nil })
	})
	if !errors.Is(err, uow.ErrOtherUnit) {
		t.Error(err)
	}
}

// After an error that ends the transaction, nothing runs outside of it: it would commit on its own.
func TestRule08_DoomedTransaction(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	u := unit(t, db, uow.Config{})
	err := u.Do(t.Context(), func(ctx context.Context) error {
		if err := insert(ctx, 1); err != nil {
			return err
		}
		if err := uow.DB(ctx).Exec("SELECT nonsense").Error; err == nil {
			t.Error("nonsense was selected")
		}
		if err := insert(ctx, 2); !errors.Is(err, uow.ErrDoomed) {
			t.Errorf("a statement after the error: %v", err)
		}
		if err := uow.AfterCommit(ctx, func() {}); !errors.Is(err, uow.ErrDoomed) {
			t.Errorf("AfterCommit after the error: %v", err)
		}
		return nil // swallowed
	})
	if !errors.Is(err, uow.ErrDoomed) || count(t, db, "1 = 1") != 0 {
		t.Errorf("%v", err)
	}
}

// A deadlock is nobody's fault: both transactions end up committed.
func TestRule03_DeadlockRunsAgain(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		if db.Name() == "sqlite" {
			return // it has one writer, so no deadlocks
		}
		u := unit(t, db, uow.Config{Writers: 2, MaxShare: 1})
		exec(t, db, "INSERT INTO items (id, n) VALUES (1, 0), (2, 0)")
		var meet sync.WaitGroup
		meet.Add(2)
		var runs atomic.Int64
		cross := func(first, second int) error {
			met := false
			return u.Do(t.Context(), func(ctx context.Context) error {
				runs.Add(1)
				if err := uow.DB(ctx).Exec("UPDATE items SET n = n + 1 WHERE id = ?", first).Error; err != nil {
					return err
				}
				if !met {
					met = true
					meet.Done()
					meet.Wait()
				}
				return uow.DB(ctx).Exec("UPDATE items SET n = n + 1 WHERE id = ?", second).Error
			})
		}
		done := make(chan error, 1)
		go func() { done <- cross(1, 2) }()
		if err := errors.Join(cross(2, 1), <-done); err != nil {
			t.Fatal(err)
		}
		if runs.Load() < 3 || count(t, db, "n = 2") != 2 {
			t.Errorf("%d runs, %d rows counted twice", runs.Load(), count(t, db, "n = 2"))
		}
	})
}

func TestInMemory(t *testing.T) {
	t.Parallel()
	db := open(t, sqlite.Open(":memory:"))
	u := unit(t, db, uow.Config{})
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if err := u.Do(t.Context(), func(ctx context.Context) error { return insert(ctx, i) }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := count(t, db, "1 = 1"); got != 100 {
		t.Errorf("%d rows, want 100", got)
	}
}

func TestNewRefusesBadInput(t *testing.T) {
	t.Parallel()
	db := open(t, sqlite.Open(filepath.Join(t.TempDir(), "x.db")))
	if _, err := uow.New(nil, uow.Config{}); err == nil {
		t.Error("nil database accepted")
	}
	_, err := uow.New(db, uow.Config{MaxShare: -1, Writers: -2, Linger: -1})
	for _, field := range []string{"MaxShare", "Writers", "Linger"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not named by: %v", field, err)
		}
	}
}

// What the wrapper says of the handle: fn can neither commit nor roll back, and gorm's own nesting works.
func TestHandle(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, uow.Config{})
		err := u.Do(t.Context(), func(ctx context.Context) error {
			tx := uow.DB(ctx)
			if tx.Commit().Error == nil || tx.Rollback().Error == nil {
				t.Error("fn ended the transaction")
			}
			_ = uow.DB(ctx).Transaction(func(tx *gorm.DB) error {
				_ = tx.Exec("INSERT INTO items (id) VALUES (1)").Error
				_ = tx.Exec("INSERT INTO items (id) VALUES (1)").Error
				return errNo
			})
			return uow.DB(ctx).Create(&Item{ID: 2}).Error
		})
		if err != nil || count(t, db, "1 = 1") != 1 || count(t, db, "id = 2") != 1 {
			t.Errorf("%v, %d rows", err, count(t, db, "1 = 1"))
		}
		if err := db.Create(&Item{ID: 3}).Error; err != nil {
			t.Errorf("the user's own handle was changed: %v", err)
		}
	})
}

type Item struct {
	ID int `gorm:"primaryKey"`
	N  int
}
