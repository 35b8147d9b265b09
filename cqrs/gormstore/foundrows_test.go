package gormstore_test

import (
	"context"
	"testing"
	"time"

	gomysql "github.com/go-sql-driver/mysql"
	"github.com/surge-go/surge/cqrs/gormstore"
	"gorm.io/driver/mysql"
)

// A program may have MySQL count the rows that it finds instead of those that it changes: clientFoundRows=true.
func TestRule04_AQueueHasAHeadWhateverMySQLCounts(t *testing.T) {
	t.Parallel()
	db := openMySQL(t)
	t.Cleanup(func() { closeDB(db) })
	cfg, err := gomysql.ParseDSN(db.Dialector.(*mysql.Dialector).DSN)
	must(t, err)
	cfg.ClientFoundRows = true
	f := newFixture(t, open(t, mysql.Open(cfg.FormatDSN())))
	f.append(t, parked("k1", "m1"))
	f.append(t, parked("k2", "m1"), parked("k2", "m2")) // the first is there, in another queue
	f.do(t, func(ctx context.Context) error {
		leased, err := gormstore.NewParking().Lease(ctx, grp, 10, time.Minute)
		if len(leased) != 2 {
			t.Errorf("%d of 2 queues have a head: %v", len(leased), leased)
		}
		return err
	})
}
