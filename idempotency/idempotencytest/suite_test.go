package idempotencytest_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/idempotency/idempotencytest"
	"github.com/surge-go/surge/idempotency/internal/testdb"
	"github.com/surge-go/surge/outbox/uow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestGormStore(t *testing.T) {
	t.Parallel()
	for _, d := range testdb.Dialects {
		t.Run(d, func(t *testing.T) {
			t.Parallel()
			idempotencytest.Run(t, func(t *testing.T, retention time.Duration) idempotency.Store {
				db, _ := testdb.Open(t, d)
				work, err := uow.New(db, uow.Config{})
				if err != nil {
					t.Fatal(err)
				}
				s, err := idempotency.NewGormStore(work, idempotency.StoreConfig{Retention: retention})
				if err != nil {
					t.Fatal(err)
				}
				return s
			})
		})
	}
}
