package cqrs_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// A good message that is left out because a neighbor hangs is not overtaken by a dead letter of its key.
func TestRule06_NothingOvertakesWhatAHungHandlerLeavesOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		cfg := b.config()
		cfg.Lanes, cfg.HandlerTimeout = 1, 2*time.Second
		s := newService(t, b, catalog(), cfg)
		release := make(chan struct{})
		defer close(release)
		cqrs.On(s.p, func(_ context.Context, n note) error {
			if n.Text == "hangs" {
				<-release
			}
			j.add(n.Order + n.Text)
			return nil
		})
		s.oneBatch("shop.commands", noteMsg("1", "x", "hangs"), noteMsg("2", "k", "good"),
			msg("3", "shop.note", "k", "{not json"), noteMsg("4", "k", "behind"))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		b.read(func(st *tables) {
			if j.String() != "kgood" || st.dead["3"].state != "dead" {
				t.Errorf("ran %q, dead letters %v", j, st.dead)
			}
		})
	})
}

// Nor is what is given back at the end of Run.
func TestRule06_NothingOvertakesWhatIsGivenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes, cfg.Grace = 1, 2*time.Second
		s := newService(t, b, catalog(), cfg)
		begun, stopped := make(chan struct{}), make(chan struct{})
		cqrs.On(s.p, func(_ context.Context, n note) error {
			if n.Text == "slow" {
				close(begun)
				time.Sleep(1500 * time.Millisecond) // beyond half of Grace
			}
			return nil
		})
		good, bad := noteMsg("2", "k", "good"), msg("3", "shop.note", "k", "{not json")
		go func() { <-begun; s.stop(); close(stopped) }()
		s.oneBatch("shop.commands", noteMsg("1", "x", "slow"), good, bad)
		<-stopped
		b.read(func(st *tables) {
			if !nacked(good) || !nacked(bad) || len(st.dead) != 0 {
				t.Errorf("given back: %v and, behind it, %v; dead letters %v", nacked(good), nacked(bad), st.dead)
			}
		})
	})
}
