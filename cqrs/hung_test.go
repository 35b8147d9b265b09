package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// A handler that never returns is left behind: its message fails, its neighbors commit, its lane goes on, and whatever
// it tries to do later fails.
func TestRule06_AHungHandlerHoldsUpItsKeyAlone(t *testing.T) {
	t.Parallel()
	for name, reruns := range map[string]int{"one run": 0, "every transaction runs twice": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { aHungHandler(t, reruns) })
		})
	}
}

func aHungHandler(t *testing.T, reruns int) {
	b, j := newDB(), &journal{}
	b.reruns = reruns
	cfg := b.config()
	cfg.Lanes, cfg.HandlerTimeout = 1, 8*time.Second
	s := newService(t, b, catalog(), cfg)
	release, hung, late := make(chan struct{}), 0, make(chan error, 2)
	cqrs.On(s.p, func(ctx context.Context, n note) error {
		if n.Text == "hangs" && hung == 0 {
			hung++
			err := b.write(ctx, "hung", 1)
			<-release // whatever ctx says
			late <- errors.Join(err, b.write(ctx, "late", 1))
			late <- s.s.Publish(ctx, placed{"late"})
			return nil
		}
		j.add(n.Order + n.Text)
		return b.write(ctx, "done", 1)
	})
	all := []*message.Message{
		noteMsg("1", "a", "1"), noteMsg("2", "b", "hangs"), noteMsg("3", "b", "2"), noteMsg("4", "c", "3"),
	}
	s.oneBatch("shop.commands", all...)
	time.Sleep(10*time.Second + time.Millisecond) // the deadline and a quarter
	synctest.Wait()
	for _, m := range all {
		if !acked(t, m) {
			t.Errorf("%s is not acknowledged", m.UUID)
		}
	}
	if got := b.row("done"); got != 2 {
		t.Errorf("%d neighbors committed, want 2", got)
	}
	if st := s.p.Stats(); st.Hung != 1 || st.Failed != 1 {
		t.Errorf("stats = %+v", st)
	}
	s.deliver("shop.commands", noteMsg("5", "d", "4"))
	time.Sleep(5 * time.Minute)
	synctest.Wait()
	if got := b.row("done"); got != 3 {
		t.Errorf("%d messages are done, want 3: the lane goes on, the key waits", got)
	}
	close(release)
	synctest.Wait()
	for range 2 {
		if err := <-late; !errors.Is(err, errEnded) {
			t.Errorf("the hung handler did something in its dead transaction: %v", err)
		}
	}
	time.Sleep(10 * time.Minute)
	synctest.Wait()
	lines := strings.Fields(j.String())
	if i, k := slices.Index(lines, "bhangs"), slices.Index(lines, "b2"); i < 0 || k < i {
		t.Errorf("after the handler had returned ran %q", lines)
	}
	if st := s.p.Stats(); st.Hung != 0 || st.Failed != 1 || st.Dead != 0 || b.row("done") != 5 || b.row("hung") != 0 {
		t.Errorf("stats = %+v, done %d, hung %d", st, b.row("done"), b.row("hung"))
	}
}

// A batch handler that hangs is found out by running its messages one by one.
func TestRule06_AHungBatchHandler(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes, cfg.Retry.Attempts = 1, 1
		s := newService(t, b, catalog(), cfg)
		release := make(chan struct{})
		defer close(release)
		cqrs.HandleBatch(s.p, func(ctx context.Context, items []*cqrs.Item[place, receipt]) error {
			for _, it := range items {
				if it.Message.SKU == "hang" {
					<-release
				}
			}
			return b.write(ctx, "placed", len(items))
		})
		s.oneBatch("shop.commands", placeMsg("1", "a", "hat"), placeMsg("2", "b", "hang"), placeMsg("3", "c", "hat"))
		time.Sleep(time.Minute)
		synctest.Wait()
		b.read(func(st *tables) {
			if st.rows["placed"] != 2 || st.dead["2"].state != "dead" || len(st.dead) != 1 {
				t.Errorf("%d placed, dead letters %v", st.rows["placed"], st.dead)
			}
			if no := st.dead["2"].Reason; !strings.Contains(no, cqrs.ErrHung.Error()) {
				t.Errorf("the reason is %q", no)
			}
		})
		if got := s.p.Stats().Hung; got != 2 {
			t.Errorf("%d handlers are hung, want the batch and the message", got)
		}
	})
}

// The end of Run does not wait for ever, and says who has not returned.
func TestRule06_RunEndsWithoutAHungHandler(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes, cfg.Grace, cfg.HandlerTimeout = 1, 4*time.Second, -1
		s := newService(t, b, catalog(), cfg)
		release := make(chan struct{})
		cqrs.On(s.p, func(ctx context.Context, n note) error {
			if n.Text == "hangs" {
				<-release
			}
			return b.write(ctx, "done", 1)
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.p.Run(ctx) }()
		<-s.p.Running()
		m, behind := noteMsg("1", "a", "hangs"), noteMsg("2", "b", "")
		s.deliver("shop.commands", m, behind)
		synctest.Wait()
		stopped := time.Now()
		cancel()
		err := <-ended
		if took := time.Since(stopped); !errors.Is(err, cqrs.ErrHung) || took != 4*time.Second {
			t.Errorf("Run = %v after %v", err, took)
		}
		if acked(t, m) || !nacked(m) || !nacked(behind) || b.row("done") != 0 {
			t.Error("what was not finished is not given back")
		}
		b.read(func(st *tables) {
			if st.inbox["shop/1"] || len(st.parked) != 0 {
				t.Errorf("it counts as handled: inbox %v, parked %v", st.inbox, st.parked)
			}
		})
		close(release)
	})
}

// A handler may have a deadline of its own.
func TestRule06_AHandlersOwnDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		s := newService(t, b, catalog(), b.config())
		start := time.Now()
		cqrs.On(s.p, func(ctx context.Context, _ note) error {
			end, _ := ctx.Deadline()
			j.add(end.Sub(start).String())
			return nil
		}, cqrs.Timeout(time.Minute))
		cqrs.On(s.p, func(ctx context.Context, _ placed) error {
			_, bounded := ctx.Deadline()
			j.add(fmt.Sprint(bounded))
			return nil
		}, cqrs.Timeout(-1))
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("1", "a", ""))
		synctest.Wait()
		s.deliver("shop.events", msg("2", "shop.placed", "a", `{}`))
		synctest.Wait()
		if got := j.String(); got != "1m0s false" {
			t.Errorf("deadlines %q", got)
		}
	})
}

// Decoding, validation and locks are the application's code too.
func TestRule06_HangsOutsideOfTheHandler(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"locks", "validate"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { hangsOutside(t, where) })
		})
	}
}

func hangsOutside(t *testing.T, where string) {
	b, release := newDB(), make(chan struct{})
	hang := func(in string, n note) {
		if in == where && n.Text == "bad" {
			<-release
		}
	}
	c := cqrs.NewCatalog(cqrs.Command[note]{
		Name: "shop.note", Key: func(n note) string { return n.Order },
		Validate: func(n note) error { hang("validate", n); return nil },
	})
	s := newService(t, b, c, b.config())
	cqrs.On(s.p, func(ctx context.Context, _ note) error { return b.write(ctx, "noted", 1) },
		cqrs.Locks(func(n note) []string { hang("locks", n); return nil }))
	s.run()
	synctest.Wait()
	s.deliver("shop.commands", noteMsg("1", "x", "bad"), noteMsg("2", "y", "good"), noteMsg("3", "x", ""))
	time.Sleep(time.Hour)
	synctest.Wait()
	if st := s.p.Stats(); st.Handled != 1 || st.Failed != 1 || st.Hung != 1 {
		t.Errorf("while it hangs: %+v", st)
	}
	close(release)
	time.Sleep(time.Hour)
	synctest.Wait()
	if st := s.p.Stats(); st.Handled != 3 || st.Failed != 1 || st.Hung != 0 {
		t.Errorf("after it has returned: %+v", st)
	}
}

// A batch handler that was given up keeps its messages: those that run one by one are not the same in memory.
func TestRule06_AHungBatchHandlerKeepsItsMessages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes = 1
		c := cqrs.NewCatalog(cqrs.Event[tags]{Name: "shop.tags", Topic: "shop.events"})
		s := newService(t, b, c, cfg)
		release, returned := make(chan struct{}), make(chan struct{})
		var hung atomic.Bool
		s.p.Consume(func(_ context.Context, ds []*cqrs.Delivery) error {
			if hung.CompareAndSwap(false, true) {
				defer close(returned)
				<-release
			}
			for _, d := range ds {
				d.Message.(tags).Names["seen"]++
				if n := d.Message.(tags).Names["seen"]; n != 1 {
					t.Errorf("seen %d times", n)
				}
				d.Err = nil
			}
			return nil
		}, cqrs.FromTypes("shop.tags"))
		payload := `{"Names":{}}`
		s.oneBatch("shop.events", msg("1", "shop.tags", "a", payload), msg("2", "shop.tags", "b", payload),
			msg("3", "shop.tags", "c", payload))
		time.Sleep(time.Minute)
		close(release)
		<-returned
		synctest.Wait()
		if st := s.p.Stats(); st.Handled != 3 {
			t.Errorf("stats = %+v", st)
		}
	})
}

type tags struct{ Names map[string]int }

// ErrHung as a handler's own error, of another processor say, is an error like others.
func TestAHandlerMayReturnErrHung(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes = 1
		s := newService(t, b, catalog(), cfg)
		runs := map[string]int{}
		cqrs.On(s.p, func(_ context.Context, n note) error {
			if runs[n.Text]++; runs[n.Text] == 1 {
				return fmt.Errorf("the other one: %w", cqrs.ErrHung)
			}
			return nil
		})
		s.oneBatch("shop.commands", noteMsg("1", "k", "1"), noteMsg("2", "k", "2"), noteMsg("3", "l", "3"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if st := s.p.Stats(); st.Handled != 3 || st.Hung != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// The longest limit there is does not end at once.
func TestTheLongestHandlerTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.HandlerTimeout = math.MaxInt64
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(context.Context, note) error { time.Sleep(time.Hour); return nil })
		s.oneBatch("shop.commands", noteMsg("1", "k", "1"))
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if st := s.p.Stats(); st.Handled != 1 || st.Failed != 0 {
			t.Errorf("%+v", st)
		}
	})
}
