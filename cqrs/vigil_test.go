package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// crashes is what a store remembers of runs and of what they began, in memory.
type crashes struct{ *db }

func (c crashes) Beat(_ context.Context, _, run string, _ time.Duration) ([]cqrs.Peer, error) {
	var others []cqrs.Peer
	for _, name := range slices.Sorted(maps.Keys(c.state.runs)) {
		if name != run {
			others = append(others, *c.state.runs[name])
		}
	}
	mine := cqrs.Peer{Run: run}
	if old := c.state.runs[run]; old != nil {
		mine = *old
	}
	mine.Beats++
	c.state.runs[run] = &mine
	return others, nil
}

func (c crashes) Leave(_ context.Context, _, run string) error {
	delete(c.state.runs, run)
	return nil
}

func (c crashes) Begun(_ context.Context, _ string, ids []string) ([]int, error) {
	n := make([]int, len(ids))
	for i, id := range ids {
		n[i] = c.state.begun[id]
	}
	return n, nil
}

func (c crashes) Begin(_ context.Context, _ string, ids []string) error {
	for _, id := range ids {
		c.state.begun[id]++
	}
	return nil
}

func (c crashes) End(_ context.Context, _ string, ids []string) error {
	for _, id := range ids {
		delete(c.state.begun, id)
	}
	return nil
}

func withCrashes(t *testing.T, b *db) *service {
	t.Helper()
	cfg := b.config()
	cfg.Crashes = crashes{b}
	return newService(t, b, catalog(), cfg)
}

// What was running when a process died runs alone, noted beforehand; what has died with it too often does not run.
func TestRule06_SuspectsRunAloneAndAreNotedBeforehand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		b.state.runs["dead"] = &cqrs.Peer{Run: "dead", Expired: true}
		b.state.begun = map[string]int{"2": 3, "4": 5}
		s := withCrashes(t, b)
		var mu sync.Mutex
		running := 0
		cqrs.On(s.p, func(_ context.Context, n note) error {
			mu.Lock()
			if running++; running > 1 {
				t.Error("suspects run beside each other")
			}
			j.add(fmt.Sprintf("%s:%d", n.Text, b.state.begun[n.Text]))
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			running--
			mu.Unlock()
			return nil
		})
		s.run()
		synctest.Wait()
		var all []*message.Message
		for i := 1; i <= 5; i++ {
			all = append(all, noteMsg(fmt.Sprint(i), "k", fmt.Sprint(i)))
		}
		s.deliver("shop.commands", all...)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := j.String(); got != "1:1 2:4 3:1" {
			t.Errorf("ran, and had begun so often: %q", got)
		}
		b.read(func(st *tables) {
			d := st.dead["4"]
			if d.state != "dead" || d.Attempt != 5 || !d.Blocking || len(st.begun) != 0 {
				t.Errorf("the one that kills: %+v; begun %v", d, st.begun)
			}
		})
	})
}

// Without a death nothing is noted, and what is younger than one is no suspect.
func TestRule06_OnlyWhatIsOlderThanADeathIsNoted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		b.state.runs["other"] = &cqrs.Peer{Run: "other", Beats: 7}
		s := withCrashes(t, b)
		noted := map[string]bool{}
		cqrs.On(s.p, func(_ context.Context, n note) error { noted[n.Text] = b.state.begun[n.Text] > 0; return nil })
		s.run()
		deliver := func(id string, age time.Duration) {
			m := noteMsg(id, id, id)
			m.Metadata[cqrs.HeaderTime] = time.Now().Add(-age).Format(time.RFC3339Nano)
			s.deliver("shop.commands", m)
			synctest.Wait()
		}
		synctest.Wait()
		deliver("in doubt", time.Hour)
		b.read(func(st *tables) { st.runs["other"].Beats++ }) // it lives
		time.Sleep(4 * time.Second)
		synctest.Wait()
		deliver("all are well", time.Hour)
		b.read(func(st *tables) { st.runs["other"].Expired = true })
		time.Sleep(4 * time.Second)
		synctest.Wait()
		deliver("old", time.Hour)
		time.Sleep(time.Hour)
		deliver("young", 0)
		if !noted["in doubt"] || noted["all are well"] || !noted["old"] || noted["young"] {
			t.Errorf("noted: %v", noted)
		}
		s.stop()
		b.read(func(st *tables) {
			if len(st.runs) != 1 || len(st.begun) != 0 {
				t.Errorf("after an orderly end: runs %v, begun %v", st.runs, st.begun)
			}
		})
	})
}

// A suspect that fails, or cannot commit, is treated like any other message.
func TestRule06_ASuspectThatFailsIsParked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		b.state.runs["dead"] = &cqrs.Peer{Run: "dead", Expired: true}
		b.state.begun = map[string]int{"1": 1, "2": 1}
		b.refuse = func(st *tables) error {
			if st.rows["too large"] > 0 {
				return errors.New("too large")
			}
			return nil
		}
		s := withCrashes(t, b)
		fails := 2
		cqrs.On(s.p, func(ctx context.Context, n note) error {
			if n.Text == "fails" && fails > 0 {
				fails--
				return errors.New("no")
			}
			return b.write(ctx, n.Text, 1)
		})
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("1", "a", "fails"), noteMsg("2", "b", "too large"), noteMsg("3", "c", "ok"))
		time.Sleep(time.Hour)
		synctest.Wait()
		b.read(func(st *tables) {
			if st.rows["fails"] != 1 || st.rows["ok"] != 1 || st.dead["2"].Attempt != 5 || len(st.begun) != 0 {
				t.Errorf("rows %v, dead %+v, begun %v", st.rows, st.dead["2"], st.begun)
			}
		})
	})
}

// What is given back has not killed anybody: the process lives, and says so.
func TestRule06_WhatIsGivenBackHasNotKilled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		b.state.runs["dead"] = &cqrs.Peer{Run: "dead", Expired: true}
		b.state.begun = map[string]int{"2": 1}
		b.refuse = func(st *tables) error {
			if len(st.inbox) > 0 {
				return errors.New("the database cannot commit that now")
			}
			return nil
		}
		s := withCrashes(t, b)
		cqrs.On(s.p, func(context.Context, note) error { return nil })
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("1", "a", "1"))
		time.Sleep(time.Second)
		s.deliver("shop.commands", noteMsg("2", "b", "2"))
		time.Sleep(time.Minute)
		b.read(func(st *tables) {
			if len(st.begun) != 2 {
				t.Errorf("begun while it is tried: %v", st.begun)
			}
		})
		s.stop()
		b.read(func(st *tables) {
			if len(st.begun) != 0 {
				t.Errorf("begun after an orderly end: %v", st.begun)
			}
		})
	})
}

// A run that was taken for dead lives, and then dies: that is noticed too.
func TestRule06_WhoWasTakenForDeadMayDieLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		b.state.runs["other"] = &cqrs.Peer{Run: "other"}
		s := withCrashes(t, b)
		noted := map[string]bool{}
		cqrs.On(s.p, func(_ context.Context, n note) error { noted[n.Text] = b.state.begun[n.Text] > 0; return nil })
		s.run()
		synctest.Wait()
		for i, name := range []string{"slow", "lives", "dead"} {
			b.read(func(st *tables) {
				st.runs["other"].Beats++
				st.runs["other"].Expired = i != 1
			})
			time.Sleep(time.Hour)
			synctest.Wait()
			m := noteMsg(name, name, name)
			m.Metadata[cqrs.HeaderTime] = time.Now().Add(-30 * time.Minute).Format(time.RFC3339Nano)
			s.deliver("shop.commands", m)
			synctest.Wait()
		}
		if noted["lives"] || noted["slow"] || noted["dead"] {
			t.Errorf("noted although it came long after: %v", noted)
		}
		b.read(func(st *tables) { st.runs["other"].Expired = false })
		time.Sleep(time.Minute)
		b.read(func(st *tables) { st.runs["other"].Expired = true })
		time.Sleep(4 * time.Second)
		m := noteMsg("late", "late", "late")
		m.Metadata[cqrs.HeaderTime] = time.Now().Format(time.RFC3339Nano)
		s.deliver("shop.commands", m)
		synctest.Wait()
		if !noted["late"] {
			t.Errorf("its second death is not noticed: %v", noted)
		}
		s.stop()
	})
}

// A message without a time, or with one in the future, may be what has killed; but not for ever.
func TestRule06_AMessageOfUnknownAgeIsASuspectForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		b.state.runs["dead"] = &cqrs.Peer{Run: "dead", Expired: true}
		s := withCrashes(t, b)
		noted := map[string]bool{}
		cqrs.On(s.p, func(_ context.Context, n note) error { noted[n.Text] = b.state.begun[n.Text] > 0; return nil })
		s.run()
		synctest.Wait()
		deliver := func(when string) {
			future := noteMsg("future "+when, "f", "future "+when)
			future.Metadata[cqrs.HeaderTime] = time.Now().Add(24 * time.Hour).Format(time.RFC3339Nano)
			none := noteMsg("none "+when, "n", "none "+when)
			delete(none.Metadata, cqrs.HeaderTime)
			s.deliver("shop.commands", future, none)
			synctest.Wait()
		}
		deliver("soon")
		time.Sleep(time.Hour)
		deliver("later")
		if !noted["future soon"] || !noted["none soon"] || noted["future later"] || noted["none later"] {
			t.Errorf("noted: %v", noted)
		}
		s.stop()
	})
}
