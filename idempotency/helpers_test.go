package idempotency_test

import (
	"context"
	"errors"
	"testing"

	"gorm.io/gorm"

	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/idempotency/internal/testdb"
	"github.com/surge-go/surge/outbox/uow"
)

// A bench is a database with a store on it, and a table of orders for handlers to write to.
type bench struct {
	db    *gorm.DB
	again func() *gorm.DB
	work  *uow.UnitOfWork
	store *idempotency.GormStore
}

var errBoom = errors.New("boom")

func newBench(t testing.TB, dialect string, share int) *bench {
	t.Helper()
	db, again := testdb.Open(t, dialect)
	if err := db.Exec("CREATE TABLE orders (id VARCHAR(64) PRIMARY KEY)").Error; err != nil {
		t.Fatal(err)
	}
	return replica(t, &bench{db: db, again: again}, share)
}

// replica is another process on the database of b.
func replica(t testing.TB, b *bench, share int) *bench {
	t.Helper()
	c := &bench{db: b.db, again: b.again}
	if b.work != nil {
		c.db = b.again()
	}
	var err error
	if c.work, err = uow.New(c.db, uow.Config{MaxShare: share}); err != nil {
		t.Fatal(err)
	}
	if c.store, err = idempotency.NewGormStore(c.work, idempotency.StoreConfig{}); err != nil {
		t.Fatal(err)
	}
	return c
}

// onEach runs f on every dialect that there is.
func onEach(t *testing.T, share int, f func(t *testing.T, b *bench)) {
	t.Helper()
	for _, d := range testdb.Dialects {
		t.Run(d, func(t *testing.T) {
			t.Parallel()
			f(t, newBench(t, d, share))
		})
	}
}

func (b *bench) count(t testing.TB, table, where string, args ...any) int64 {
	t.Helper()
	var n int64
	if err := b.db.Table(table).Where(where, args...).Count(&n).Error; err != nil {
		t.Fatal(err)
	}
	return n
}

// place writes an order in the transaction of ctx.
func place(ctx context.Context, id string) error {
	return uow.DB(ctx).Exec("INSERT INTO orders VALUES (?)", id).Error
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}
