package uow_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"gorm.io/driver/postgres"

	"github.com/surge-go/surge/outbox/uow"
)

// A proxy passes bytes on, until it is told to lose the answer to the next COMMIT, or the COMMIT itself.
type proxy struct {
	net.Listener
	target string
	lose   atomic.Int32 // 1: the answer, 2: the statement
	mute   atomic.Bool  // no new connections
	wg     sync.WaitGroup
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, target: target}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() { _ = l.Close() })
	return p
}

func (p *proxy) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	if p.mute.Load() {
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	answered := make(chan struct{})
	p.wg.Go(func() {
		defer close(answered)
		_, _ = io.Copy(client, server)
		_ = client.Close()
	})
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if bytes.Contains(bytes.ToLower(buf[:n]), []byte("commit")) {
			switch p.lose.Swap(0) {
			case 1:
				_ = client.Close() // first, so that no answer can slip through
				_, _ = server.Write(buf[:n])
				<-answered // into the void
				return
			case 2:
				return
			}
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// When the answer to COMMIT is lost, the outcome is asked for: committed is success, aborted runs again.
func TestRule09_LostAnswerToCommit(t *testing.T) {
	t.Parallel()
	direct := openPostgres(t)
	var schema string
	if err := direct.Raw("SELECT current_schema()").Row().Scan(&schema); err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(os.Getenv("SURGE_TEST_POSTGRES"))
	if err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, target.Host)
	target.Host = p.Addr().String()
	db := open(t, postgres.Open(target.String()+"&search_path="+schema))
	u := unit(t, db, uow.Config{})
	runs := 0
	do := func(id int) error {
		runs = 0
		return u.Do(t.Context(), func(ctx context.Context) error {
			runs++
			return insert(ctx, id)
		})
	}
	p.lose.Store(1)
	if err := do(1); err != nil || runs != 1 || count(t, direct, "id = 1") != 1 {
		t.Errorf("answer lost: %v after %d runs, %d rows", err, runs, count(t, direct, "id = 1"))
	}
	p.lose.Store(2)
	if err := do(2); err != nil || runs != 2 || count(t, direct, "id = 2") != 1 {
		t.Errorf("statement lost: %v after %d runs, %d rows", err, runs, count(t, direct, "id = 2"))
	}
	err = u.Do(t.Context(), func(ctx context.Context) error {
		p.lose.Store(1)
		p.mute.Store(true) // and nobody can be asked
		return insert(ctx, 3)
	})
	if !errors.Is(err, uow.ErrOutcomeUnknown) {
		t.Errorf("nobody to ask: %v", err)
	}
	if p.mute.Store(false); count(t, direct, "id = 3") != 1 {
		t.Error("the commit did not reach the server: the test proves nothing")
	}
}
