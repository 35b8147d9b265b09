package uow_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
)

// lostTo returns an error with which a database says that the transaction is gone, and nobody is to blame.
func lostTo(dialect string) error {
	return map[string]error{
		"postgres": state("40001"), "mysql": &mysql.MySQLError{Number: 1213}, "sqlite": code(5),
	}[dialect]
}

// A part whose transaction is lost whenever it runs fails alone, and is not tried without end. Its neighbors commit.
func TestRule01_APartThatAlwaysLosesItsTransactionFailsAlone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ parts, retries int }{{64, 5}, {64, 1}, {8, 2}, {5, 1}} {
		t.Run(fmt.Sprintf("%d parts, %d retries", c.parts, c.retries), func(t *testing.T) {
			t.Parallel()
			onEach(t, func(t *testing.T, db *gorm.DB) {
				u := unit(t, db, one(uow.Config{Retries: c.retries}))
				culprit, lost := c.parts*5/8, lostTo(db.Name())
				var runs atomic.Int64
				var fns []func(context.Context) error
				for i := range c.parts {
					fns = append(fns, func(ctx context.Context) error {
						err := insert(ctx, i)
						if i == culprit {
							runs.Add(1)
							return errors.Join(err, lost)
						}
						return err
					})
				}
				for i, err := range together(t, u, fns...) {
					if errors.Is(err, lost) != (i == culprit) || (err != nil) != (i == culprit) {
						t.Errorf("part %d: %v", i, err)
					}
				}
				if got := count(t, db, "id <> ?", culprit); got != c.parts-1 || count(t, db, "1 = 1") != got {
					t.Errorf("%d neighbors committed, want %d; %d rows", got, c.parts-1, count(t, db, "1 = 1"))
				}
				if got := runs.Load(); got > 8 {
					t.Errorf("the part that fails ran %d times", got)
				}
			})
		})
	}
}

// Without retries a transaction that is lost is not run again, not even in parts.
func TestNoRetries(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	u := unit(t, db, one(uow.Config{Retries: -1}))
	lost, runs := lostTo(db.Name()), 0
	errs := together(t, u,
		func(ctx context.Context) error { runs++; return insert(ctx, 1) },
		func(context.Context) error { runs++; return lost },
	)
	if !errors.Is(errs[0], lost) || !errors.Is(errs[1], lost) || runs != 2 || count(t, db, "1 = 1") != 0 {
		t.Errorf("%v after %d runs, %d rows", errs, runs, count(t, db, "1 = 1"))
	}
}

// PostgreSQL ends a session that is idle in its transaction for too long. Who thinks for so long fails alone, and not
// who happens to meet the error; neighbors do not run again one by one, each blamed in turn.
func TestRule01_APartThatIdlesForTooLongFailsAlone(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	u := unit(t, db, one(uow.Config{Retries: 2}))
	const culprit = 0
	var runs atomic.Int64
	var fns []func(context.Context) error
	for i := range 8 {
		fns = append(fns, func(ctx context.Context) error {
			if err := insert(ctx, i); err != nil || i != culprit {
				return err
			}
			runs.Add(1)
			return idle(ctx, db)
		})
	}
	for i, err := range together(t, u, fns...) {
		if (err != nil) != (i == culprit) {
			t.Errorf("part %d: %v", i, err)
		}
	}
	if got := count(t, db, "id <> ?", culprit); got != 7 || count(t, db, "1 = 1") != 7 {
		t.Errorf("%d neighbors committed, want 7; %d rows", got, count(t, db, "1 = 1"))
	}
	if got := runs.Load(); got != 4 { // among 8, 4 and 2, and alone
		t.Errorf("the part that idles ran %d times, want 4", got)
	}
}

// idle does nothing until the server has ended the session of the transaction in ctx.
func idle(ctx context.Context, db *gorm.DB) error {
	var pid int
	if err := uow.DB(ctx).Raw("SELECT pg_backend_pid()").Row().Scan(&pid); err != nil {
		return err
	}
	if err := uow.DB(ctx).Exec("SET LOCAL idle_in_transaction_session_timeout = 1").Error; err != nil {
		return err
	}
	for there := true; there; {
		err := db.WithContext(ctx).Raw("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ?)", pid).Row().Scan(&there)
		if err != nil {
			return err
		}
	}
	return nil
}

// A session that somebody ends is a lost connection, whichever way the server says so: its transaction runs again.
func TestASessionThatIsKilledRunsAgain(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, db *gorm.DB) {
		u := unit(t, db, one(uow.Config{}))
		kill, slow := "SELECT pg_terminate_backend(?)", "SELECT pg_sleep(10)"
		mine := "SELECT pg_backend_pid()"
		if db.Name() == "mysql" {
			kill, slow, mine = "KILL ?", "SELECT BENCHMARK(1000000000, SHA2('x', 512))", "SELECT CONNECTION_ID()"
		}
		for id, inTheMiddle := range []bool{false, true} {
			runs := 0
			err := u.Do(t.Context(), func(ctx context.Context) error {
				runs++
				var session int
				err := errors.Join(insert(ctx, id), uow.DB(ctx).Raw(mine).Row().Scan(&session))
				if err != nil || runs > 1 {
					return err
				}
				if !inTheMiddle {
					return uow.DB(ctx).Exec(kill, session).Error
				}
				timer := time.AfterFunc(100*time.Millisecond, func() { db.Exec(kill, session) })
				defer timer.Stop()
				return uow.DB(ctx).Exec(slow).Error
			})
			if err != nil || runs != 2 || count(t, db, "id = ?", id) != 1 {
				t.Errorf("killed in the middle %v: %v after %d runs", inTheMiddle, err, runs)
			}
		}
	})
}
