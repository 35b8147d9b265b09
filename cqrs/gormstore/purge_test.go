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

// A message that begins again while others are purged is remembered: it may kill this process too.
func TestRule06_PurgeLeavesAloneWhatBeginsAgain(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		if f.db.Name() == "sqlite" {
			t.Skip("one writer at a time")
		}
		c, ids := gormstore.Crashes{}, []string{"m1"}
		f.do(t, func(ctx context.Context) error { return c.Begin(ctx, grp, ids) })
		must(t, f.db.Exec("UPDATE cqrs_begun SET at=at-?", (2*time.Hour).Microseconds()).Error)
		begun, commit := make(chan struct{}), make(chan struct{})
		done := make(chan error, 1)
		go func() {
			done <- f.work.Do(t.Context(), func(ctx context.Context) error {
				err := c.Begin(ctx, grp, ids)
				close(begun)
				<-commit
				return err
			})
		}()
		<-begun
		time.AfterFunc(300*time.Millisecond, func() { close(commit) })
		f.do(t, func(ctx context.Context) error { _, err := c.Purge(ctx, time.Hour, 10); return err })
		must(t, <-done)
		f.do(t, func(ctx context.Context) error {
			n, err := c.Begun(ctx, grp, ids)
			if err == nil && n[0] != 2 {
				t.Errorf("it has begun %d times, want 2", n[0])
			}
			return err
		})
	})
}
