package gormstore_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs/gormstore"
)

// Without a limit nothing is purged: a negative one means everything on SQLite and a fault of the syntax elsewhere, and
// with 0 whoever calls until there is less than that never ends.
func TestPurgeNeedsALimit(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		d := deadLetters(t, f, gormstore.DeadLettersConfig{})
		put(t, f, d, letter("m1"))
		for _, limit := range []int{0, -1} {
			if n, err := d.Purge(t.Context(), -time.Hour, limit); err == nil || !strings.Contains(err.Error(), "limit") || n > 0 {
				t.Errorf("Purge of letters with the limit %d = %d, %v", limit, n, err)
			}
			err := f.work.Do(t.Context(), func(ctx context.Context) error {
				_, err := gormstore.Crashes{}.Purge(ctx, -time.Hour, limit)
				return err
			})
			if err == nil || !strings.Contains(err.Error(), "limit") {
				t.Errorf("Purge of crashes with the limit %d = %v", limit, err)
			}
		}
		if _, err := d.Show(t.Context(), grp, "m1"); err != nil {
			t.Error(err)
		}
	})
}

// A letter whose replay begins while others are purged is kept: it may die again.
func TestRule05_PurgeLeavesAReplayAlone(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		if f.db.Name() == "sqlite" {
			t.Skip("one writer at a time")
		}
		d := deadLetters(t, f, gormstore.DeadLettersConfig{})
		put(t, f, d, letter("m1"))
		turned, commit := make(chan struct{}), make(chan struct{})
		done := make(chan error, 1)
		go func() {
			done <- f.work.Do(t.Context(), func(ctx context.Context) error {
				_, err := d.Replay(ctx, grp, []string{"m1"})
				close(turned)
				<-commit
				return err
			})
		}()
		<-turned
		time.AfterFunc(300*time.Millisecond, func() { close(commit) })
		purged, err := d.Purge(t.Context(), -time.Hour, 10)
		must(t, err)
		must(t, <-done)
		if shown, err := d.Show(t.Context(), grp, "m1"); err != nil || purged > 1 { // an entry of the log
			t.Errorf("%d purged, then %+v, %v", purged, shown, err)
		}
	})
}
