package uow_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"gorm.io/driver/postgres"
	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
)

// A road leads to PostgreSQL until it is closed: then what is on it stays there, as when a host loses its power.
type road struct {
	mu  sync.RWMutex // held for writing while it is closed
	all sync.WaitGroup
}

// away returns a database behind a road.
func away(t *testing.T) (*gorm.DB, *road) {
	t.Helper()
	direct := openPostgres(t)
	var schema string
	if err := direct.Raw("SELECT current_schema()").Row().Scan(&schema); err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(os.Getenv("SURGE_TEST_POSTGRES"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r, host := &road{}, target.Host
	r.all.Go(func() { r.accept(l, host) })
	t.Cleanup(func() { _ = l.Close(); r.all.Wait() })
	target.Host = l.Addr().String()
	return open(t, postgres.Open(target.String()+"&search_path="+schema)), r
}

func (r *road) accept(l net.Listener, host string) {
	for {
		near, err := l.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", host)
		if err != nil {
			_ = near.Close()
			continue
		}
		r.all.Go(func() { r.carry(far, near) })
		r.all.Go(func() { r.carry(near, far) })
	}
}

func (r *road) carry(to io.WriteCloser, from io.ReadCloser) {
	defer func() { _ = to.Close(); _ = from.Close() }()
	buf := make([]byte, 1<<16)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		r.mu.RLock()
		_, err = to.Write(buf[:n])
		r.mu.RUnlock()
		if err != nil {
			return
		}
	}
}

// When the database's host is gone without a word, neither BEGIN nor COMMIT waits until TCP gives up, a quarter of an
// hour later.
func TestSilentDatabase(t *testing.T) {
	t.Parallel()
	for name, inside := range map[string]bool{"at BEGIN": false, "at COMMIT": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, r := away(t)
			u := unit(t, db, one(uow.Config{PartTimeout: time.Second, Retries: -1}))
			if err := u.Do(t.Context(), func(ctx context.Context) error { return insert(ctx, 1) }); err != nil {
				t.Fatal(err)
			}
			if !inside {
				r.mu.Lock()
			}
			done := make(chan error, 1)
			go func() {
				done <- u.Do(context.Background(), func(ctx context.Context) error {
					err := insert(ctx, 2)
					if inside {
						r.mu.Lock()
					}
					return err
				})
			}()
			select {
			case err := <-done:
				if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, uow.ErrOutcomeUnknown) {
					t.Errorf("got %v", err)
				}
				r.mu.Unlock()
			case <-time.After(time.Minute):
				t.Error("Do does not return")
				r.mu.Unlock()
				<-done
			}
		})
	}
}
