package projection_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/surge-go/surge/outbox/uow"
)

// Processes feed a model in such a way that one of them always holds it: who wants to change it gets his turn
// nevertheless.
func TestRule33_AChangeIsNotStarvedByThoseWhoFeed(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		if w.db.Name() == "sqlite" {
			t.Skip("SQLite has one writer")
		}
		lock := func(exclusive bool) func(context.Context) error {
			return func(ctx context.Context) error {
				_, err := w.store.Lock(ctx, "notes", exclusive)
				return err
			}
		}
		must(t, w.work.Do(t.Context(), lock(true)))
		ctx, cancel := context.WithCancel(t.Context())
		var feeding sync.WaitGroup
		defer feeding.Wait()
		defer cancel()
		release := [2]chan struct{}{make(chan struct{}, 1), make(chan struct{}, 1)}
		first := make(chan struct{})
		var once sync.Once
		for i := range release {
			work, err := uow.New(w.db, uow.Config{Writers: 1})
			must(t, err)
			feeding.Go(func() {
				for ctx.Err() == nil {
					poke(release[i], false)
					err := work.Do(ctx, func(ctx context.Context) error {
						if err := lock(false)(ctx); err != nil {
							return err
						}
						poke(release[1-i], true)
						once.Do(func() { close(first) })
						select {
						case <-release[i]: // the other one has it too
						case <-time.After(200 * time.Millisecond): // or cannot get it
						}
						return nil
					})
					if err != nil && ctx.Err() == nil {
						t.Error(err)
						return
					}
				}
			})
		}
		<-first
		changed := make(chan error, 1)
		feeding.Go(func() { changed <- w.work.Do(ctx, lock(true)) })
		select {
		case err := <-changed:
			must(t, err)
		case <-time.After(patience):
			t.Error("the change has not had its turn")
		}
	})
}

// poke fills c, or empties it.
func poke(c chan struct{}, full bool) {
	if full {
		select {
		case c <- struct{}{}:
		default:
		}
		return
	}
	select {
	case <-c:
	default:
	}
}
