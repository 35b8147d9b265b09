package saga_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"path/filepath"
	"strings"
	"testing"

	"github.com/glebarez/sqlite"
	"github.com/surge-go/surge/cqrs/host"
	"github.com/surge-go/surge/saga"
	"gorm.io/gorm"
)

// peeking opens a SQLite database that calls look before every query of a transaction, on its own connection. So a
// query can see what only READ COMMITTED shows: that somebody else has committed since the query before it.
func peeking(t *testing.T, look func(query string, c driver.ExecerContext)) *gorm.DB {
	t.Helper()
	plain, err := sql.Open("sqlite", ":memory:")
	must(t, err)
	t.Cleanup(func() { must(t, plain.Close()) })
	dsn := filepath.Join(t.TempDir(), "test.db") + "?_pragma=busy_timeout(5000)"
	return open(t, sqlite.Dialector{Conn: sql.OpenDB(peeker{plain.Driver(), dsn, look})})
}

type peeker struct {
	plain driver.Driver
	dsn   string
	look  func(string, driver.ExecerContext)
}

func (p peeker) Driver() driver.Driver { return p.plain }

func (p peeker) Connect(context.Context) (driver.Conn, error) {
	c, err := p.plain.Open(p.dsn)
	if err != nil {
		return nil, err
	}
	return peekerConn{c.(sqliteConn), p.look}, nil
}

type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
}

type peekerConn struct {
	sqliteConn
	look func(string, driver.ExecerContext)
}

func (c peekerConn) QueryContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Rows, error) {
	c.look(q, c.sqliteConn)
	return c.sqliteConn.QueryContext(ctx, q, args)
}

// What is on its way to a placeholder does not go with it when that expires.
func TestRule23_ExpiredPlaceholderTakesNothingAlong(t *testing.T) {
	t.Parallel()
	expires := false
	db := peeking(t, func(q string, c driver.ExecerContext) {
		if expires && strings.Contains(q, "FROM saga_instances WHERE id IN") { // the row, whose id was just found
			expires = false
			_, err := c.ExecContext(context.Background(), "DELETE FROM saga_instances", nil)
			must(t, err)
		}
	})
	svc, err := host.Open(t.Context(), "home", db, labMessages, host.Config{
		Migrations: []func(context.Context, *gorm.DB) error{saga.Migrate},
	})
	must(t, err)
	e, err := saga.NewEngine(svc.Processor, saga.EngineConfig{})
	must(t, err)
	s := saga.Register(e, saga.MustDefine("lab", 1, hear("w")))
	signal := func(ctx context.Context) error { return s.Signal(ctx, "x", ping{Text: "early"}) }
	start := func(ctx context.Context) error { return s.Start(ctx, "x", labState{ID: "x"}) }

	must(t, svc.Work.Do(t.Context(), signal))
	expires = true
	must(t, svc.Work.Do(t.Context(), signal))
	expires = true
	must(t, svc.Work.Do(t.Context(), start))
	if i, err := s.Get(t.Context(), "x"); err != nil || i.Step != "w" {
		t.Errorf("the start is lost: %+v, %v", i, err)
	}
	if expires {
		t.Error("no placeholder was there to expire")
	}
}
