package kafkabus_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/glebarez/sqlite"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/surge-go/surge/cqrs/kafkabus"
)

func sqliteDB(t *testing.T) *gorm.DB {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ticks.db")
	dsn := file + "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)"
	return connected(t, sqlite.Open(dsn))
}

func connected(t *testing.T, d gorm.Dialector) *gorm.DB {
	t.Helper()
	db, err := gorm.Open(d, &gorm.Config{Logger: logger.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if pool, err := db.DB(); err == nil {
			_ = pool.Close()
		}
	})
	return db
}

// The cluster in this process moves leaders and coordinators and drops connections in the middle of requests.
func TestChaos(t *testing.T) {
	if raced {
		t.Skip("sarama (seen with 1.48.2) opens a broker's connection while another goroutine fetches from it, which is reported")
	}
	t.Parallel()
	cluster := fake(t, kfake.NumBrokers(3))
	cfg := hasty()
	cfg.Lost = kafkabus.FromOldest // the first commit of all may break too, when messages have been handled
	s := stormy(t, cluster.ListenAddrs(), &storm{
		cfg: cfg, keys: 200, perKey: 100, batch: 200, pace: 20 * time.Millisecond,
		churn: 700 * time.Millisecond, limit: 3 * time.Minute,
		store: newStore(t, sqliteDB, "INTEGER PRIMARY KEY AUTOINCREMENT"),
	}, 6)
	s.disturb = func(ctx context.Context) int {
		n := 0
		for ; n < 16 && ctx.Err() == nil; n++ { // and then calm, or a slow machine would never get anywhere
			disturb(cluster, n)
			s.wait(ctx, 400*time.Millisecond)
		}
		return n
	}
	s.rage()
}

// disturb does the nth harm.
func disturb(c *kfake.Cluster, n int) {
	keys := []kmsg.Key{
		kmsg.Produce, kmsg.Fetch, kmsg.Heartbeat, kmsg.OffsetCommit, kmsg.JoinGroup, kmsg.SyncGroup, kmsg.OffsetFetch,
	}
	switch n % 4 {
	case 0:
		c.ShufflePartitionLeaders()
	case 1:
		c.RehashCoordinators()
	default:
		c.ControlKey(int16(keys[n%len(keys)]), func(kmsg.Request) (kmsg.Response, error, bool) {
			return nil, errors.New("the connection breaks"), true
		})
	}
}
