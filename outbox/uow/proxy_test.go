package uow_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// What a proxy loses of the next COMMIT.
const (
	loseAnswer int32 = 1 + iota
	loseStatement
)

// cancelRequest is how PostgreSQL's message begins that has a statement canceled: its length and its code, 80877102.
var cancelRequest = []byte{0, 0, 0, 16, 4, 210, 22, 46}

// A proxy passes bytes on, until it is told to lose the answer to the next COMMIT, or the COMMIT itself.
type proxy struct {
	net.Listener
	target string
	lose   atomic.Int32
	mute   atomic.Bool // no new connections
	wg     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, target: target, conns: map[net.Conn]struct{}{}}
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
	p.mu.Lock()
	p.conns[client] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, client)
	}()
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
		if bytes.Equal(buf[:min(n, 8)], cancelRequest) {
			return // pgx sends it when a connection breaks; it could abort the COMMIT whose answer is lost
		}
		if said := bytes.ToLower(buf[:n]); bytes.Contains(said, []byte("commit")) &&
			!bytes.Contains(said, []byte("read committed")) {
			switch p.lose.Swap(0) {
			case loseAnswer:
				_ = client.Close() // first, so that no answer can slip through
				_, _ = server.Write(buf[:n])
				<-answered // into the void
				return
			case loseStatement:
				return
			}
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}
