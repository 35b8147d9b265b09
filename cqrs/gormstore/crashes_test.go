package gormstore_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/outbox/uow"
)

func TestRule06_SignsOfLife(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		var c gormstore.Crashes
		peers := func(run string, ttl time.Duration) (said string) {
			f.do(t, func(ctx context.Context) error {
				all, err := c.Beat(ctx, "g", run, ttl)
				said = ""
				for _, p := range all {
					said += fmt.Sprintf("%s %d %v;", p.Run, p.Beats, p.Expired)
				}
				return err
			})
			return said
		}
		if got := peers("a", time.Hour) + peers("a", time.Hour); got != "" {
			t.Errorf("alone, others are %q", got)
		}
		if got := peers("b", -time.Second); got != "a 2 false;" {
			t.Errorf("b sees %q", got)
		}
		if got := peers("a", time.Hour); got != "b 1 true;" {
			t.Errorf("a sees %q", got)
		}
		peers("long dead", -2*time.Minute)
		f.do(t, func(ctx context.Context) error { return c.Leave(ctx, "g", "c") })
		if got := peers("a", time.Hour); got != "b 1 true;" {
			t.Errorf("left are %q, want only what has expired just now: not all may know of it yet", got)
		}
		f.do(t, func(ctx context.Context) error { return c.Leave(ctx, "g", "b") })
		f.do(t, func(ctx context.Context) error { return c.Leave(ctx, "g", "a") })
		if got := peers("d", time.Hour); got != "" {
			t.Errorf("who has left is still there: %q", got)
		}
	})
}

func TestRule06_WhatHasBegunIsCounted(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		var c gormstore.Crashes
		f.do(t, func(ctx context.Context) error { return c.Begin(ctx, "g", []string{"a", "b", "c"}) })
		f.do(t, func(ctx context.Context) error { return c.Begin(ctx, "g", []string{"b"}) })
		f.do(t, func(ctx context.Context) error { return c.Begin(ctx, "other", []string{"a"}) })
		f.do(t, func(ctx context.Context) error { return c.End(ctx, "g", []string{"a", "z"}) })
		begun := func() (counts []int) {
			f.do(t, func(ctx context.Context) (err error) {
				counts, err = c.Begun(ctx, "g", []string{"a", "b", "c", "z"})
				return err
			})
			return counts
		}
		if got := fmt.Sprint(begun()); got != "[0 2 1 0]" {
			t.Errorf("begun %s", got)
		}
		purged := 0
		f.do(t, func(ctx context.Context) (err error) { purged, err = c.Purge(ctx, time.Hour, 10); return err })
		if purged != 0 {
			t.Errorf("%d purged before their time", purged)
		}
		f.do(t, func(ctx context.Context) (err error) { purged, err = c.Purge(ctx, -time.Hour, 2); return err })
		if purged != 2 {
			t.Errorf("%d purged, want the limit", purged)
		}
	})
}

// A group whose runs always die leaves rows behind, which every sign of life reads.
func TestDeadRunsAreForgotten(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		var c gormstore.Crashes
		for run, ttl := range map[string]time.Duration{"long dead": -25 * time.Hour, "dead": -time.Hour, "alive": time.Hour} {
			f.do(t, func(ctx context.Context) error {
				_, err := c.Beat(ctx, "g", run, ttl)
				return err
			})
		}
		f.do(t, func(ctx context.Context) error {
			_, err := c.Purge(ctx, time.Hour, 10)
			return err
		})
		left := 0
		f.do(t, func(ctx context.Context) error {
			peers, err := c.Beat(ctx, "g", "new", time.Hour)
			left = len(peers)
			return err
		})
		if left != 2 {
			t.Errorf("%d runs are left, want the one that lives and the one that has just died", left)
		}
	})
}

func TestCrashesNeedATransaction(t *testing.T) {
	t.Parallel()
	var c gormstore.Crashes
	_, beat := c.Beat(t.Context(), "g", "r", time.Second)
	_, begun := c.Begun(t.Context(), "g", []string{"a"})
	for _, err := range []error{beat, begun, c.Leave(t.Context(), "g", "r"), c.Begin(t.Context(), "g", []string{"a"})} {
		if !errors.Is(err, uow.ErrNoTransaction) {
			t.Errorf("error = %v", err)
		}
	}
}
