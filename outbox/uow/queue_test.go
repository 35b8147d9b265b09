package uow_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/outbox/uow/pgxpipe"
)

const updateItem = "UPDATE items SET n = n + 1 WHERE id = ?"

// queueItem queues the two statements of a part.
func queueItem(id int) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		return errors.Join(uow.Queue(ctx, insertItem, id), uow.QueueOne(ctx, errModel, updateItem, id))
	}
}

func TestQueueCommitsWithItsPart(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, uow.Config{Writers: 1})
		errs := together(t, u, queueItem(1), queueItem(2), queueItem(3))
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if got := count(t, db, "n = 1"); got != 3 {
			t.Errorf("%d items, want 3", got)
		}
		if s := u.Stats(); s.Commits != 2 || s.Restarts != 0 {
			t.Errorf("%+v, want two commits, the holder's and ours", s)
		}
	})
}

// Without a bound on parts there is none on what is queued either.
func TestQueueWithoutPartTimeout(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	u := unit(t, db, uow.Config{PartTimeout: -1})
	err := u.Do(t.Context(), queueItem(1))
	if s := u.Stats(); err != nil || s.Restarts != 0 || s.Retries != 0 || count(t, db, "n = 1") != 1 {
		t.Errorf("%v, %+v, %d items", err, s, count(t, db, "n = 1"))
	}
}

// What is queued takes effect before the next statement, whoever's it is.
func TestStatementSeesWhatWasQueuedBefore(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, uow.Config{Writers: 1})
		var seen [3]int
		look := func(ctx context.Context, i int) error {
			return uow.DB(ctx).Raw("SELECT count(*) FROM items").Row().Scan(&seen[i])
		}
		errs := together(
			t, u,
			func(ctx context.Context) error {
				if err := uow.Queue(ctx, insertItem, 1); err != nil {
					return err
				}
				return look(ctx, 0)
			},
			queueItem(2),
			func(ctx context.Context) error { return look(ctx, 1) },
			func(ctx context.Context) error {
				err := uow.BeforeCommit(ctx, "look", func(ctx context.Context, _ []int) error { return look(ctx, 2) }, 0)
				return errors.Join(err, uow.Queue(ctx, insertItem, 3))
			},
		)
		if err := errors.Join(errs...); err != nil || seen != [3]int{1, 2, 3} {
			t.Errorf("saw %v, want 1, 2 and 3 items: %v", seen, err)
		}
	})
}

// The part whose queued statement fails gets the error where it queued it, in a run of its own.
func TestQueuedFailureIsItsPartsAlone(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]func(ctx context.Context) error{
		"refused by the database": func(ctx context.Context) error { return uow.Queue(ctx, insertItem, 1) },
		"not one row": func(ctx context.Context) error {
			return uow.QueueOne(ctx, errModel, updateItem, 99)
		},
		"more than one row": func(ctx context.Context) error {
			return uow.QueueOne(ctx, errModel, "UPDATE items SET n = n")
		},
		"cannot be prepared": func(ctx context.Context) error { return uow.Queue(ctx, "INSERT INTO nowhere VALUES (1)") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEach(t, func(t *testing.T, db *gorm.DB) {
				u := unit(t, db, uow.Config{Writers: 1})
				exec(t, db, "INSERT INTO items (id, n) VALUES (1, 7), (2, 7)")
				errOwn := errors.New("own")
				var at atomic.Value
				errs := together(t, u, queueItem(10), func(ctx context.Context) error {
					if err := uow.Queue(ctx, insertItem, 20); err != nil {
						return err
					}
					if err := bad(ctx); err != nil {
						at.Store(err)
						return errOwn
					}
					return uow.Queue(ctx, insertItem, 21)
				}, queueItem(30))
				if errs[0] != nil || !errors.Is(errs[1], errOwn) || errs[2] != nil {
					t.Errorf("got %v", errs)
				}
				if err, _ := at.Load().(error); err == nil || errors.Is(err, uow.ErrDoomed) ||
					strings.Contains(name, "row") != errors.Is(err, errModel) {
					t.Errorf("the part was told %v", err)
				}
				if got, wrong := count(t, db, "id IN (10, 30) AND n = 1"), count(t, db, "id IN (20, 21)"); got != 2 || wrong != 0 {
					t.Errorf("%d of the neighbors' items and %d of the part's, want 2 and 0", got, wrong)
				}
			})
		})
	}
}

// A part that refuses before anything of it was sent costs its neighbors nothing.
func TestRefusalTakesBackWhatIsQueued(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	u := unit(t, db, uow.Config{Writers: 1})
	errs := together(t, u, queueItem(1), func(ctx context.Context) error {
		_ = uow.Queue(ctx, insertItem, 2)
		err := u.Do(ctx, func(ctx context.Context) error { return errors.Join(uow.Queue(ctx, insertItem, 3), errModel) })
		if !errors.Is(err, errModel) {
			t.Errorf("the nested part got %v", err)
		}
		return errModel
	}, queueItem(4))
	if errs[0] != nil || !errors.Is(errs[1], errModel) || errs[2] != nil {
		t.Errorf("got %v", errs)
	}
	if s := u.Stats(); s.Restarts != 0 || count(t, db, "true") != 2 || count(t, db, "id IN (2, 3)") != 0 {
		t.Errorf("%+v, %d items", s, count(t, db, "true"))
	}
}

// A nested part is undone alone, though what it queued fails when it is long over.
func TestNestedQueueFailsAlone(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, uow.Config{})
		var inner error
		err := u.Do(t.Context(), func(ctx context.Context) error {
			inner = nil
			if err := uow.Queue(ctx, insertItem, 1); err != nil {
				return err
			}
			inner = u.Do(ctx, func(ctx context.Context) error {
				return errors.Join(uow.Queue(ctx, insertItem, 2), uow.Queue(ctx, insertItem, 1))
			})
			return uow.Queue(ctx, insertItem, 3)
		})
		if err != nil || inner == nil || count(t, db, "id IN (1, 3)") != 2 || count(t, db, "true") != 2 {
			t.Errorf("got %v and inside %v, %d items", err, inner, count(t, db, "true"))
		}
	})
}

func TestRollbackToSavepointUndoesWhatWasQueuedAfterIt(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, uow.Config{})
		err := u.Do(t.Context(), func(ctx context.Context) error {
			if err := uow.Queue(ctx, insertItem, 1); err != nil {
				return err
			}
			err := uow.DB(ctx).Transaction(func(*gorm.DB) error {
				return errors.Join(uow.Queue(ctx, insertItem, 2), errModel)
			})
			if !errors.Is(err, errModel) {
				t.Errorf("inside: %v", err)
			}
			return uow.Queue(ctx, insertItem, 3)
		})
		if err != nil || count(t, db, "id IN (1, 3)") != 2 || count(t, db, "true") != 2 {
			t.Errorf("%v, %d items", err, count(t, db, "true"))
		}
	})
}

// A statement that waits for another transaction's lock longer than the part after it may take is not that part's fault.
func TestQueuedStatementThatWaitsIsItsOwnPartsFault(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	u := unit(t, db, uow.Config{Writers: 1, PartTimeout: time.Second})
	exec(t, db, "INSERT INTO items (id) VALUES (1)")
	lock := db.Begin()
	defer lock.Rollback()
	if err := lock.Exec(updateItem, 1).Error; err != nil {
		t.Fatal(err)
	}
	errs := together(t, u,
		func(ctx context.Context) error { return uow.Queue(ctx, updateItem, 1) },
		func(ctx context.Context) error { return insert(ctx, 2) },
	)
	if errs[0] == nil || errs[1] != nil || count(t, db, "id = 2") != 1 {
		t.Errorf("got %v", errs)
	}
}

func TestQueueRefuses(t *testing.T) {
	t.Parallel()
	u := unit(t, openSQLite(t), uow.Config{})
	ctx := context.Background()
	if err := uow.Queue(ctx, insertItem, 1); !errors.Is(err, uow.ErrNoTransaction) {
		t.Errorf("without a transaction: %v", err)
	}
	_ = u.Do(ctx, func(ctx context.Context) error {
		for _, query := range []string{"SELECT 1", "SAVEPOINT x", "ROLLBACK TO x", "SET x = 1"} {
			if err := uow.Queue(ctx, query); err == nil {
				t.Errorf("%s is queued", query)
			}
		}
		if err := uow.QueueOne(ctx, nil, insertItem, 1); err == nil {
			t.Error("a guard without an error is queued")
		}
		ended, cancel := context.WithCancel(ctx)
		cancel()
		if err := uow.Queue(ended, insertItem, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("after the end of its context: %v", err)
		}
		return nil
	})
	if _, err := uow.New(openSQLite(t), uow.Config{Pipeline: pgxpipe.Pipeline{}}); err == nil {
		t.Error("a pipeline for SQLite is accepted")
	}
}

// A foreign reports that it sent everything, and has sent nothing.
type foreign struct{}

func (foreign) Exec(context.Context, any, []uow.Statement) ([]int64, error) { return nil, nil }

func TestPipelineThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	exec(t, db, "CREATE TABLE items (id INTEGER PRIMARY KEY)")
	u, err := uow.New(db, uow.Config{Pipeline: foreign{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Do(t.Context(), func(ctx context.Context) error { return uow.Queue(ctx, insertItem, 1) }); err != nil {
		t.Error("it is not sent alone after that:", err)
	}
	if got := count(t, db, "true"); got != 1 {
		t.Errorf("%d items, want 1", got)
	}
	_, err = pgxpipe.Pipeline{}.Exec(t.Context(), new(sql.Conn), nil)
	if err == nil || !strings.Contains(err.Error(), "*sql.Conn") {
		t.Errorf("another driver's connection: %v", err)
	}
}

// What is queued in the database's own notation goes to the driver as it is, whether it waits or not.
func TestQueueRawKeepsArrays(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	plain, err := uow.New(db, uow.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for i, u := range []*uow.UnitOfWork{unit(t, db, uow.Config{}), plain} {
		err := u.Do(t.Context(), func(ctx context.Context) error {
			return uow.QueueRaw(ctx, "INSERT INTO items (id, n) SELECT id, $2 FROM unnest($1::bigint[]) AS id",
				[]int64{int64(10 * i), int64(10*i + 1), int64(10*i + 2)}, i)
		})
		if got := count(t, db, "n = ?", i); err != nil || got != 3 {
			t.Errorf("%d rows, want 3: %v", got, err)
		}
	}
	err = plain.Do(t.Context(), func(ctx context.Context) error {
		return uow.QueueRaw(ctx, "SELECT 1")
	})
	if err == nil || !strings.Contains(err.Error(), "change rows") {
		t.Errorf("a query got %v", err)
	}
	if err := uow.QueueRaw(t.Context(), insertItem, 1); !errors.Is(err, uow.ErrNoTransaction) {
		t.Errorf("without a transaction: %v", err)
	}
}

// What a hook has queued fails when its transaction is about to end. Only the part that it was for hears of it.
func TestHooksQueuedFailureIsItsPartsAlone(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, uow.Config{Writers: 1})
		exec(t, db, "INSERT INTO items (id) VALUES (2)")
		flush := func(ctx context.Context, ids []int) error {
			for _, id := range ids {
				if err := uow.Queue(ctx, insertItem, id); err != nil {
					return err
				}
			}
			return nil
		}
		part := func(id int) func(ctx context.Context) error {
			return func(ctx context.Context) error {
				return errors.Join(uow.Queue(ctx, insertItem, 10+id), uow.BeforeCommitLast(ctx, "hook", flush, id))
			}
		}
		errs := together(t, u, part(1), part(2), part(3))
		if errs[0] != nil || errs[1] == nil || errs[2] != nil {
			t.Errorf("got %v", errs)
		}
		if got, wrong := count(t, db, "id IN (1, 3, 11, 13)"), count(t, db, "id = 12"); got != 4 || wrong != 0 {
			t.Errorf("%d of the neighbors' items and %d of the part's, want 4 and 0", got, wrong)
		}
	})
}
