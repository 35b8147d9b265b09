package uow_test

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	mysqldriver "github.com/go-sql-driver/mysql"
	"gorm.io/driver/mysql"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
)

// behind opens the database of db once more, through a proxy.
func behind(t *testing.T, db *gorm.DB) (*gorm.DB, *proxy) {
	t.Helper()
	var name string
	if db.Name() == "mysql" {
		cfg, err := mysqldriver.ParseDSN(os.Getenv("SURGE_TEST_MYSQL"))
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Raw("SELECT DATABASE()").Row().Scan(&name); err != nil {
			t.Fatal(err)
		}
		p := newProxy(t, cfg.Addr)
		cfg.Addr, cfg.DBName = p.Addr().String(), name
		return open(t, mysql.Open(cfg.FormatDSN())), p
	}
	if err := db.Raw("SELECT current_schema()").Row().Scan(&name); err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(os.Getenv("SURGE_TEST_POSTGRES"))
	if err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, target.Host)
	target.Host = p.Addr().String()
	return open(t, postgres.Open(target.String()+"&search_path="+name)), p
}

// onServers runs test on the servers that are switched on.
func onServers(t *testing.T, test func(t *testing.T, direct *gorm.DB)) {
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, openPostgres(t))
	})
	t.Run("mysql", func(t *testing.T) {
		t.Parallel()
		test(t, openMySQL(t))
	})
}

// migrate creates the tables of the package itself, where it has some.
func migrate(t *testing.T, db *gorm.DB) {
	t.Helper()
	none := fstest.MapFS{db.Name() + "/001_none.sql": {}}
	if err := uow.Migrate(t.Context(), db, "test", none); err != nil {
		t.Fatal(err)
	}
}

// When the answer to COMMIT is lost, the outcome is asked for: committed is success, aborted runs again.
func TestRule09_LostAnswerToCommit(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, direct *gorm.DB) {
		migrate(t, direct)
		db, p := behind(t, direct)
		why := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
		u := unit(t, db, uow.Config{Logger: why})
		plain, err := uow.New(db, uow.Config{Logger: why}) // without a Pipeline
		if err != nil {
			t.Fatal(err)
		}
		runs := 0
		do := func(id int) error {
			runs = 0
			return []*uow.UnitOfWork{u, plain}[id%2].Do(t.Context(), func(ctx context.Context) error {
				runs++
				return insert(ctx, id)
			})
		}
		for id := range 6 { // more than once, since a writer is known by its row
			p.lose.Store(loseAnswer)
			if err := do(id); err != nil || runs != 1 || count(t, direct, "id = ?", id) != 1 {
				t.Errorf("answer of %d lost: %v after %d runs, %d rows", id, err, runs, count(t, direct, "id = ?", id))
			}
		}
		for id := range 2 {
			p.lose.Store(loseStatement)
			if err := do(10 + id); err != nil || runs != 2 || count(t, direct, "id = ?", 10+id) != 1 {
				t.Errorf("statement lost: %v after %d runs, %d rows", err, runs, count(t, direct, "id = ?", 10+id))
			}
		}
		p.lose.Store(loseAnswer)
		err = u.Do(t.Context(), func(ctx context.Context) error {
			var n int
			return uow.DB(ctx).Raw("SELECT count(*) FROM items").Row().Scan(&n)
		})
		if err != nil || p.lose.Load() != 0 {
			t.Errorf("nothing was written, so nothing can be lost: %v", err)
		}
	})
}

// While nobody can be asked the outcome is unknown, and nothing runs again; later it can be resolved.
func TestRule09_UnknownOutcomeIsResolvedLater(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, direct *gorm.DB) {
		migrate(t, direct)
		db, p := behind(t, direct)
		u := unit(t, db, uow.Config{})
		for id, lose := range []int32{loseAnswer, loseStatement} {
			runs := 0
			err := u.Do(t.Context(), func(ctx context.Context) error {
				runs++
				p.lose.Store(lose)
				p.mute.Store(true)
				return insert(ctx, id)
			})
			var unknown *uow.OutcomeError
			if !errors.Is(err, uow.ErrOutcomeUnknown) || !errors.As(err, &unknown) || runs != 1 {
				t.Fatalf("nobody to ask: %v after %d runs", err, runs)
			}
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := unknown.Resolve(ended); err == nil {
				t.Error("resolved, though there is nobody to ask")
			}
			p.mute.Store(false)
			if err := u.Do(t.Context(), func(ctx context.Context) error { return insert(ctx, 10+id) }); err != nil {
				t.Error(err) // others go on, and do not wipe the trace
			}
			committed, err := unknown.Resolve(t.Context())
			if err != nil || committed != (lose == loseAnswer) || committed != (count(t, direct, "id = ?", id) == 1) {
				t.Errorf("resolved as %v, %v; %d rows", committed, err, count(t, direct, "id = ?", id))
			}
		}
	})
}

// Without its table the outcome on MySQL and MariaDB stays unknown, which is said and costs no one else anything.
func TestRule09_WithoutItsTableTheOutcomeStaysUnknown(t *testing.T) {
	t.Parallel()
	db, p := behind(t, openMySQL(t))
	u := unit(t, db, uow.Config{})
	p.lose.Store(loseAnswer)
	err := u.Do(t.Context(), func(ctx context.Context) error { return insert(ctx, 1) })
	var unknown *uow.OutcomeError
	if !errors.As(err, &unknown) {
		t.Fatalf("got %v", err)
	}
	if _, err := unknown.Resolve(t.Context()); !errors.Is(err, uow.ErrOutcomeUnknown) {
		t.Errorf("Resolve: %v", err)
	}
	if err := u.Do(t.Context(), func(ctx context.Context) error { return insert(ctx, 2) }); err != nil {
		t.Error(err)
	}
}

// Rows of writers that are gone do not pile up.
func TestMigrateSweepsOutcomes(t *testing.T) {
	t.Parallel()
	db := openMySQL(t)
	migrate(t, db)
	exec(t, db, "INSERT INTO uow_outcomes VALUES ('old', '', UNIX_TIMESTAMP() - 90000), ('new', '', UNIX_TIMESTAMP())")
	migrate(t, db)
	var left []string
	if err := db.Raw("SELECT writer FROM uow_outcomes").Scan(&left).Error; err != nil || slices.Contains(left, "old") || !slices.Contains(left, "new") {
		t.Errorf("%v are left, %v", left, err)
	}
}

// PostgreSQL forgets old transactions, too.
func TestResolveWhatIsForgotten(t *testing.T) {
	t.Parallel()
	db, p := behind(t, openPostgres(t))
	u := unit(t, db, uow.Config{})
	err := u.Do(t.Context(), func(ctx context.Context) error {
		p.lose.Store(loseAnswer)
		p.mute.Store(true)
		return insert(ctx, 1)
	})
	var unknown *uow.OutcomeError
	if !errors.As(err, &unknown) {
		t.Fatal(err)
	}
	p.mute.Store(false)
	uow.Forget(unknown)
	if committed, err := unknown.Resolve(t.Context()); !errors.Is(err, uow.ErrOutcomeUnknown) {
		t.Errorf("committed %v, %v", committed, err)
	}
}

// What tells of a COMMIT is swept after a day. From then on its outcome is unknown, which is not "not committed".
func TestResolveAfterADay(t *testing.T) {
	t.Parallel()
	direct := openMySQL(t)
	migrate(t, direct)
	db, p := behind(t, direct)
	u := unit(t, db, uow.Config{})
	err := u.Do(t.Context(), func(ctx context.Context) error {
		p.lose.Store(loseAnswer)
		p.mute.Store(true)
		return insert(ctx, 1)
	})
	var unknown *uow.OutcomeError
	if !errors.As(err, &unknown) {
		t.Fatal(err)
	}
	p.mute.Store(false)
	exec(t, direct, "UPDATE uow_outcomes SET written_at = written_at - 90000")
	migrate(t, direct) // sweeps
	uow.Age(unknown, 25*time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if committed, err := unknown.Resolve(ctx); !errors.Is(err, uow.ErrOutcomeUnknown) {
		t.Errorf("committed %v, %v", committed, err)
	}
}
