package outbox_test

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox"
)

// A flaky database fails the first query for a row.
type flaky struct {
	*sql.DB
	failed atomic.Bool
	first  func(ctx context.Context, db *sql.DB) *sql.Row
}

func (f *flaky) GetDBConn() (*sql.DB, error) { return f.DB, nil }

func (f *flaky) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if f.failed.Swap(true) {
		return f.DB.QueryRowContext(ctx, query, args...)
	}
	return f.first(ctx, f.DB)
}

func lost(ctx context.Context, db *sql.DB) *sql.Row {
	conn, err := db.Conn(ctx)
	if err != nil {
		panic(err)
	}
	_ = conn.Close()
	return conn.QueryRowContext(ctx, "SELECT 1")
}

func terminated(ctx context.Context, db *sql.DB) *sql.Row {
	return db.QueryRowContext(ctx, "DO $$ BEGIN RAISE 'shutting down' USING ERRCODE = '57P01'; END $$")
}

// A relay that cannot begin tries again, though the database answers in the next moment.
func TestRunGoesOnAfterAPassingFault(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db *gorm.DB) {
		faults := map[string]func(context.Context, *sql.DB) *sql.Row{"lost": lost}
		if db.Name() == "postgres" {
			faults["terminated"] = terminated
		}
		for name, first := range faults {
			f := &fixture{db: db}
			f.box, f.unit = newOutbox(t, db)
			f.publish(t, "orders", "k", name)
			box, _ := newOutbox(t, db) // which has not seen the tables yet
			to := &scripted{}
			relay := newRelay(t, box, to, outbox.RelayConfig{Backoff: time.Millisecond})
			pool, err := db.DB()
			if err != nil {
				t.Fatal(err)
			}
			db.Statement.ConnPool = &flaky{DB: pool, first: first}
			stop := start(t, relay)
			within(t, "it begins", func() bool { return t.Failed() || slices.Equal(to.ids(), []string{name}) })
			stop()
			db.Statement.ConnPool = pool
		}
	})
}

// Tables that are missing stay so: Run returns.
func TestRunEndsWithoutItsTables(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db *gorm.DB) {
		box, err := outbox.New(db, outbox.Config{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := newRelay(t, box, &scripted{}, soon).Run(ctx); err == nil || !strings.Contains(err.Error(), "migrated") {
			t.Errorf("Run: %v", err)
		}
	})
}
