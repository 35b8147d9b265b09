package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

func TestRule04_AFailingMessageParksItsKeyNotItsPartition(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		s := newService(t, b, catalog(), b.config())
		down := true
		cqrs.On(s.p, func(_ context.Context, n note) error {
			if n.Order == "a" && down {
				return errors.New("down")
			}
			j.add(n.Order + n.Text)
			return nil
		})
		s.run()
		synctest.Wait()
		all := []*message.Message{
			noteMsg("1", "a", "1"), noteMsg("2", "b", "1"), noteMsg("3", "a", "2"), noteMsg("4", "a", "3"),
		}
		s.deliver("shop.commands", all...)
		synctest.Wait()
		for _, m := range all {
			if !acked(t, m) {
				t.Errorf("%s holds up its partition", m.UUID)
			}
		}
		if got := j.String(); got != "b1" {
			t.Errorf("while a waits: %q", got)
		}
		down = false
		later := noteMsg("5", "a", "4")
		s.deliver("shop.commands", later)
		synctest.Wait()
		if !acked(t, later) || j.String() != "b1" {
			t.Errorf("a later message of a parked key must queue behind it; ran: %q", j)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := j.String(); got != "b1 a1 a2 a3 a4" {
			t.Errorf("order = %q", got)
		}
		b.read(func(st *tables) {
			if len(st.parked) != 0 {
				t.Errorf("%d messages still parked", len(st.parked))
			}
		})
	})
}

func TestRule04_ParkedMessagesOutliveTheProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		first := newService(t, b, catalog(), b.config())
		cqrs.On(first.p, func(context.Context, note) error { return errors.New("down") })
		first.run()
		synctest.Wait()
		first.deliver("shop.commands", noteMsg("1", "a", "1"), noteMsg("2", "a", "2"))
		synctest.Wait()
		first.stop()

		second := newService(t, b, catalog(), b.config())
		cqrs.On(second.p, func(_ context.Context, n note) error { j.add(n.Text); return nil })
		second.run()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got := j.String(); got != "1 2" {
			t.Errorf("after the restart ran %q", got)
		}
	})
}

func TestRule05_ADeadLetterBlocksItsKeyUntilReplayed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { deadLetter(t, "a1 a2", "") })
}

func TestRule05_SkipDeadLetsTheKeyGoOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { deadLetter(t, "a2 a1", "a2", cqrs.SkipDead()) })
}

// deadLetter has the first of two messages of a key die, then replays it.
func deadLetter(t *testing.T, want, before string, o ...cqrs.HandlerOption) {
	b, j := newDB(), &journal{}
	s := newService(t, b, catalog(), b.config())
	broken, runs := true, 0
	cqrs.On(s.p, func(_ context.Context, n note) error {
		if n.Text == "1" && broken {
			runs++
			return errors.New("broken")
		}
		j.add(n.Order + n.Text)
		return nil
	}, o...)
	s.run()
	synctest.Wait()
	s.deliver("shop.commands", noteMsg("1", "a", "1"), noteMsg("2", "a", "2"))
	time.Sleep(time.Hour)
	synctest.Wait()
	if runs != 5 {
		t.Errorf("%d runs before it died, want 5", runs)
	}
	if j.String() != before {
		t.Errorf("ran %q while the letter is dead, want %q", j, before)
	}
	b.read(func(st *tables) {
		d := st.dead["1"]
		if d.state != "dead" || d.Reason != "broken" || len(d.Failures) != 5 || d.Topic != "shop.commands" {
			t.Errorf("dead letter = %+v", d)
		}
	})
	broken = false
	if n, err := s.p.Replay(t.Context(), "1"); n != 1 || err != nil {
		t.Fatalf("Replay = %d, %v", n, err)
	}
	if n, err := s.p.Replay(t.Context(), "1"); n != 0 || err != nil {
		t.Fatalf("second Replay = %d, %v; want 0", n, err)
	}
	time.Sleep(time.Second)
	synctest.Wait()
	if j.String() != want {
		t.Errorf("order = %q, want %q", j, want)
	}
	b.read(func(st *tables) {
		if len(st.dead) != 0 || len(st.parked) != 0 {
			t.Errorf("left behind: %v %v", st.dead, st.parked)
		}
	})
}

func TestRule05_DiscardFreesTheKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		s := newService(t, b, catalog(), b.config())
		cqrs.On(s.p, func(_ context.Context, n note) error { j.add(n.Text); return nil })
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", msg("1", "shop.note", "a", `{`), noteMsg("2", "a", "2"))
		synctest.Wait()
		if j.String() != "" {
			t.Fatalf("ran %q behind an undecodable message", j)
		}
		if n, err := s.p.Discard(t.Context(), "1", "unknown"); n != 1 || err != nil {
			t.Fatalf("Discard = %d, %v", n, err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if j.String() != "2" {
			t.Errorf("after the discard ran %q", j)
		}
	})
}

func TestRule05_ARefusalThatNobodyWaitsForDiesAtOnceAndBlocksNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		s := newService(t, b, catalog(), b.config())
		cqrs.On(s.p, func(_ context.Context, n note) error {
			j.add(n.Text)
			if n.Text == "1" {
				return cqrs.Reject("no", nil)
			}
			return nil
		})
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("1", "a", "1"), noteMsg("2", "a", "2"))
		synctest.Wait()
		if j.String() != "1 2" {
			t.Errorf("ran %q", j)
		}
		b.read(func(st *tables) {
			if d := st.dead["1"]; d.Reason != "no" || d.Blocking || len(st.parked) != 0 {
				t.Errorf("dead letter = %+v, parked %d", d, len(st.parked))
			}
		})
	})
}

// Keys keep their order over batches, failures and both ways in, whatever happens to others.
func TestKeysKeepTheirOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		b.reruns = 1
		cfg := b.config()
		cfg.Lanes, cfg.MaxBatch = 3, 7
		s := newService(t, b, catalog(), cfg)
		var mu sync.Mutex
		seen, tries := map[string][]string{}, map[string]int{}
		cqrs.On(s.p, func(ctx context.Context, n note) error {
			mu.Lock()
			defer mu.Unlock()
			id := n.Order + n.Text
			if tries[id]++; len(id)%3 == 0 && tries[id] < 4 {
				return errors.New("not yet")
			}
			b.add(ctx, n.Order, 1)
			if !slices.Contains(seen[n.Order], n.Text) { // reruns see it again
				seen[n.Order] = append(seen[n.Order], n.Text)
			}
			return nil
		})
		s.run()
		synctest.Wait()
		for i := range 300 {
			order := fmt.Sprint("o", i%13)
			s.deliver("shop.commands", noteMsg(fmt.Sprint("m", i), order, fmt.Sprint(i)))
			if i%50 == 0 {
				time.Sleep(30 * time.Millisecond)
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		total := 0
		for order, texts := range seen {
			total += b.row(order)
			last := -1
			for _, text := range texts {
				var i int
				_, _ = fmt.Sscan(text, &i)
				if i < last {
					t.Errorf("%s: %v is out of order", order, texts)
					break
				}
				last = i
			}
		}
		if total != 300 {
			t.Errorf("%d effects, want 300; stats %+v", total, s.p.Stats())
		}
	})
}

// A batch handler's rejection whose reply fails undoes the call, so that what is behind it does not run before it.
func TestARejectionWhoseReplyFailsIsNotOvertaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		cfg := b.config()
		cfg.Lanes = 1
		s := newService(t, b, catalog(), cfg)
		cqrs.HandleBatch(s.p, func(_ context.Context, items []*cqrs.Item[place, receipt]) error {
			for _, it := range items {
				j.add(it.Envelope.ID)
				if it.Envelope.ID == "1" {
					it.Fail(cqrs.Reject("no", nil))
				}
			}
			return nil
		}, cqrs.OnReply(func(_ context.Context, _ cqrs.Envelope, a cqrs.Answer) error {
			if a.Rejection != nil && len(j.lines) == 2 {
				return errors.New("the reply fails")
			}
			return nil
		}))
		s.oneBatch("shop.commands", placeMsg("1", "k", "hat"), placeMsg("2", "k", "hat"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := j.String(); got != "1 2 1 2" || s.p.Stats().Handled != 1 {
			t.Errorf("ran %q, stats %+v", got, s.p.Stats())
		}
	})
}

// Keys are spread over the lanes by chance: some batches of a key that is slow must not keep the other lanes waiting.
func TestALaneIsReadAheadOf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		cfg := cqrs.ProcessorConfig{Subscribe: b.subscriber, Lanes: 64, MaxBatch: 2}
		s := newService(t, b, catalog(), cfg)
		slow := make(chan struct{})
		cqrs.On(s.p, func(_ context.Context, n note) error {
			if n.Order == "a" {
				<-slow
				return nil
			}
			j.add(n.Order)
			return nil
		})
		s.run()
		synctest.Wait()
		var all []*message.Message
		for i := range 3 * cfg.MaxBatch {
			all = append(all, noteMsg(fmt.Sprint("a", i), "a", ""))
		}
		for i := range 20 {
			all = append(all, noteMsg(fmt.Sprint("b", i), fmt.Sprint("b", i), ""))
		}
		go s.deliver("shop.commands", all...)
		synctest.Wait()
		if j.String() == "" {
			t.Error("what is behind six messages of a key that is slow waits for them")
		}
		close(slow)
		synctest.Wait()
	})
}
