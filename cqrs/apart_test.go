package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// Without Parking a message that fails when its batch is taken apart is not overtaken by the next of its key.
func TestRule04_OneByOneKeepsTheOrderOfAKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes, cfg.Parking, cfg.DeadLetters = 1, nil, nil
		s := newService(t, b, catalog(), cfg)
		refused := false
		b.refuse = func(st *tables) error {
			if st.rows["1"] > 0 && st.rows["2"] > 0 && !refused {
				refused = true
				return errors.New("it cannot commit, once")
			}
			return nil
		}
		var done []string
		runs := 0
		cqrs.On(s.p, func(ctx context.Context, n note) error {
			if n.Text == "1" {
				if runs++; runs == 2 {
					return errors.New("a hiccup")
				}
			}
			done = append(done, n.Text)
			b.add(ctx, n.Text, 1)
			return nil
		})
		s.oneBatch("shop.commands", noteMsg("1", "k", "1"), noteMsg("2", "k", "2"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := fmt.Sprint(done); got != "[1 2 1 2]" {
			t.Errorf("ran as %s, want both, undone, and again in order", got)
		}
	})
}

// The same after a process has died, when suspects run one by one.
func TestRule04_SuspectsKeepTheOrderOfAKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		b.state.runs["dead"] = &cqrs.Peer{Run: "dead", Expired: true}
		b.state.begun["1"], b.state.begun["2"] = 1, 1
		cfg := b.config()
		cfg.Lanes, cfg.Parking, cfg.Crashes = 1, nil, crashes{b}
		s := newService(t, b, catalog(), cfg)
		var ran []string
		cqrs.On(s.p, func(_ context.Context, n note) error {
			ran = append(ran, n.Text)
			if len(ran) == 1 {
				return errors.New("a hiccup")
			}
			return nil
		})
		s.oneBatch("shop.commands", noteMsg("1", "k", "1"), noteMsg("2", "k", "2"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := fmt.Sprint(ran); got != "[1 1 2]" {
			t.Errorf("ran as %s", got)
		}
	})
}

// picky are stores that do not take what is too large.
type (
	pickyParking struct{ parking }
	pickyLetters struct{ letters }
)

var errTooLarge = errors.New("packet for query is too large")

func (p pickyParking) Append(ctx context.Context, all []*cqrs.Parked) error {
	for _, m := range all {
		if len(m.Payload) > 1_000 {
			return errTooLarge
		}
	}
	return p.parking.Append(ctx, all)
}

func (p pickyLetters) Put(ctx context.Context, all []*cqrs.DeadLetter) error {
	for _, m := range all {
		if len(m.Payload) > 1_000 {
			return errTooLarge
		}
	}
	return p.letters.Put(ctx, all)
}

// A message that fails, and whose failure no store takes, holds up its key, and nobody else.
func TestAMessageThatCannotBeStoredHoldsUpItsKeyOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes, cfg.Parking, cfg.DeadLetters = 1, pickyParking{parking{b}}, pickyLetters{letters{b}}
		s := newService(t, b, catalog(), cfg)
		var mended atomic.Bool
		var ran []string
		cqrs.On(s.p, func(ctx context.Context, n note) error {
			if len(n.Text) > 1_000 && !mended.Load() {
				return errors.New("no")
			}
			ran = append(ran, n.Text[:1])
			b.add(ctx, n.Text[:1], 1)
			return nil
		})
		large, behind := noteMsg("1", "k", "1"+strings.Repeat("x", 2_000)), noteMsg("2", "k", "2")
		all := []*message.Message{large, behind}
		for i := range 10 {
			all = append(all, noteMsg(fmt.Sprint("o", i), fmt.Sprint("k", i), "o"))
		}
		s.oneBatch("shop.commands", all...)
		time.Sleep(time.Minute)
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("later", "l", "o"))
		time.Sleep(time.Minute)
		synctest.Wait()
		b.read(func(st *tables) {
			if st.rows["o"] != 11 || acked(t, large) || acked(t, behind) {
				t.Errorf("%v are handled; acknowledged: %v, behind it %v", st.rows, acked(t, large), acked(t, behind))
			}
		})
		mended.Store(true)
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := strings.Join(ran[len(ran)-2:], ""); got != "12" || !acked(t, large) || !acked(t, behind) {
			t.Errorf("at last ran %s", got)
		}
	})
}

// Two messages that came without an ID are two, also where they are stored.
func TestMessagesWithoutIDAreNotOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes = 1
		s := newService(t, b, catalog(), cfg)
		tries, done := map[string]int{}, map[string]int{}
		cqrs.On(s.p, func(_ context.Context, n note) error {
			if tries[n.Text]++; tries[n.Text] == 1 {
				return errors.New("a hiccup")
			}
			done[n.Text]++
			return nil
		})
		s.oneBatch("shop.commands", noteMsg("", "", "1"), noteMsg("", "", "2"), noteMsg("", "k", "3"), noteMsg("", "l", "4"),
			msg("", "shop.note", "", "{no"), msg("", "shop.note", "", "{text"))
		time.Sleep(time.Hour)
		synctest.Wait()
		if fmt.Sprint(done) != "map[1:1 2:1 3:1 4:1]" {
			t.Errorf("handled %v", done)
		}
		b.read(func(st *tables) {
			if len(st.dead) != 2 {
				t.Errorf("%d dead letters, want 2", len(st.dead))
			}
		})
	})
}

// Of an error's text only the beginning is kept.
func TestTextsOfFailuresAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		s := newService(t, b, catalog(), b.config())
		cqrs.On(s.p, func(context.Context, note) error { return errors.New(strings.Repeat("ä", 1<<20)) })
		s.oneBatch("shop.commands", noteMsg("1", "k", "1"))
		time.Sleep(time.Hour)
		synctest.Wait()
		b.read(func(st *tables) {
			for _, f := range st.dead["1"].Failures {
				if n := len(f.Error); n == 0 || n > 4_000 {
					t.Errorf("%d bytes are kept", n)
				}
			}
		})
	})
}
