package idempotency_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	driver "github.com/go-sql-driver/mysql"
	"gorm.io/driver/mysql"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/surge-go/surge/idempotency"
)

// A cutter forwards connections, and cuts the one on which the next COMMIT comes: before the server sees it, or
// before the client sees the answer.
type cutter struct {
	net.Listener
	target        string
	before, after atomic.Bool
	open          sync.WaitGroup
}

func newCutter(t *testing.T, target string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	c := &cutter{Listener: l, target: target}
	c.open.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.open.Go(func() { c.forward(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		c.open.Wait()
	})
	return c
}

func (c *cutter) forward(client net.Conn) {
	server, err := net.Dial("tcp", c.target)
	if err != nil {
		_ = client.Close()
		return
	}
	answers := make(chan struct{})
	go func() {
		defer close(answers)
		_, _ = io.Copy(client, server)
		_ = client.Close()
	}()
	defer func() {
		_ = server.Close()
		_ = client.Close()
		<-answers
	}()
	for buf := make([]byte, 64<<10); ; {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		commits := bytes.HasSuffix(buf[:n], []byte("COMMIT")) // not READ COMMITTED
		if commits && c.before.CompareAndSwap(true, false) {
			return
		}
		cut := commits && c.after.CompareAndSwap(true, false)
		if cut {
			_ = client.Close()
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
		if cut {
			_, _ = server.Write(quit)
			<-answers
			return
		}
	}
}

// quit is COM_QUIT of MySQL's protocol: the server ends the connection once it has done what came before.
var quit = []byte{1, 0, 0, 0, 1}

// lossy returns a bench on MySQL without the table by which a unit of work finds out what became of a COMMIT, over
// connections that can be cut.
func lossy(t *testing.T) (direct, b *bench, cut *cutter) {
	t.Helper()
	direct = newBench(t, "mysql", 0)
	must(t, direct.db.Exec("DROP TABLE uow_outcomes").Error)
	cfg, err := driver.ParseDSN(os.Getenv("SURGE_TEST_MYSQL"))
	must(t, err)
	must(t, direct.db.Raw("SELECT DATABASE()").Row().Scan(&cfg.DBName))
	cut = newCutter(t, cfg.Addr)
	cfg.Addr = cut.Addr().String()
	b = replica(t, &bench{work: direct.work, again: func() *gorm.DB {
		db, err := gorm.Open(mysql.Open(cfg.FormatDSN()),
			&gorm.Config{SkipDefaultTransaction: true, Logger: logger.Discard})
		must(t, err)
		pool, err := db.DB()
		must(t, err)
		t.Cleanup(func() { must(t, pool.Close()) })
		return db
	}}, 0)
	return direct, b, cut
}

// Where the unit of work cannot find out what became of a COMMIT whose answer was lost, the key can: it was in that
// transaction.
func TestLostAnswerToCommitIsFoundOutByTheKey(t *testing.T) {
	t.Parallel()
	direct, b, cut := lossy(t)
	for id, c := range map[string]struct {
		flag     *atomic.Bool
		replayed bool
	}{
		"answer lost":    {&cut.after, true},
		"statement lost": {&cut.before, false},
	} {
		runs := 0
		n, replayed, err := doTx(t.Context(), b, id, 1, func(ctx context.Context) (int, error) {
			if runs++; runs == 1 {
				c.flag.Store(true)
			}
			return 7, place(ctx, id)
		})
		if n != 7 || err != nil || replayed != c.replayed || c.flag.Load() {
			t.Errorf("%s: %d, replayed %v, %v", id, n, replayed, err)
		}
		if k := direct.count(t, "orders", "id = ?", id); k != 1 {
			t.Errorf("%s: %d orders", id, k)
		}
	}
}

// A claim whose COMMIT got no answer is given up: nothing was done under it, so the retry must not find it unknown.
func TestLostAnswerToAClaimLeavesTheKeyFree(t *testing.T) {
	t.Parallel()
	_, b, cut := lossy(t)
	ran := 0
	h := idempotency.Middleware(b.store, scopeOf, idempotency.MiddlewareConfig{})(http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) { ran++; says(201, "done")(w, r) }))
	cut.after.Store(true)
	wantProblem(t, serve(h, request("k", "/", "{}")), 503, "unavailable")
	if cut.after.Load() || ran != 0 {
		t.Fatalf("the connection was not cut, or the handler ran (%d)", ran)
	}
	if w := serve(h, request("k", "/", "{}")); w.Code != 201 || ran != 1 {
		t.Errorf("the retry got %d %s, and the handler ran %d times", w.Code, w.Body, ran)
	}
}
