package cqrs_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// A hook's error undoes the handling, whatever the error is.
func TestOnReplyThatFailsWithAnOutcome(t *testing.T) {
	t.Parallel()
	for name, no := range map[string]error{
		"rejection": cqrs.Reject("full", nil), "not executed": cqrs.ErrNotExecuted, "deferred": cqrs.ErrDeferred,
	} {
		for _, batch := range []bool{false, true} {
			t.Run(name+map[bool]string{true: " in a batch"}[batch], func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { hookThatFails(t, no, batch) })
			})
		}
	}
}

func hookThatFails(t *testing.T, no error, batch bool) {
	b := newDB()
	s := newService(t, b, catalog(), b.config())
	hooks := 0
	hook := cqrs.OnReply(func(context.Context, cqrs.Envelope, cqrs.Answer) error {
		if hooks++; hooks > 100 {
			return nil
		}
		return no
	})
	if batch {
		cqrs.HandleBatch(s.p, func(ctx context.Context, items []*cqrs.Item[place, receipt]) error {
			b.add(ctx, "placed", len(items))
			return nil
		}, hook)
	} else {
		cqrs.Handle(s.p, func(ctx context.Context, _ place) (receipt, error) {
			b.add(ctx, "placed", 1)
			return receipt{}, nil
		}, hook)
	}
	s.run()
	synctest.Wait()
	m := placeMsg("1", "o", "hat")
	s.deliver("shop.commands", m)
	synctest.Wait()
	if hooks > 10 {
		t.Errorf("the hook was called %d times without a pause", hooks)
	}
	var left int
	b.read(func(t *tables) { left = len(t.parked) + len(t.dead) })
	if acked(t, m) && b.row("placed") == 0 && left == 0 {
		t.Error("the message is gone, and what it did too")
	}
}

// Code that the application gives us may panic or end its goroutine outside of a handler too.
func TestRule06_PanicOutsideOfTheHandler(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(){"locks": func() { panic("locks") }, "locks, Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newDB()
				s := newService(t, b, catalog(), b.config())
				cqrs.On(s.p, func(ctx context.Context, _ note) error { b.add(ctx, "noted", 1); return nil },
					cqrs.Locks(func(n note) []string {
						if n.Text == "bad" {
							end()
						}
						return nil
					}))
				panicsOutside(t, s, b)
			})
		})
	}
	t.Run("validate", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newDB()
			c := cqrs.NewCatalog(cqrs.Command[note]{
				Name: "shop.note", Key: func(n note) string { return n.Order },
				Validate: func(n note) error {
					if n.Text == "bad" {
						panic("validate")
					}
					return nil
				},
			})
			s := newService(t, b, c, b.config())
			cqrs.On(s.p, func(ctx context.Context, _ note) error { b.add(ctx, "noted", 1); return nil })
			panicsOutside(t, s, b)
		})
	})
}

func panicsOutside(t *testing.T, s *service, b *db) {
	t.Helper()
	s.run()
	synctest.Wait()
	s.deliver("shop.commands", noteMsg("1", "x", "bad"), noteMsg("2", "y", "good"))
	time.Sleep(time.Hour)
	synctest.Wait()
	if got := b.row("noted"); got != 1 {
		t.Errorf("%d messages handled, want the good one", got)
	}
	b.read(func(tb *tables) {
		if len(tb.dead) != 1 {
			t.Errorf("%d dead letters, want the bad one", len(tb.dead))
		}
	})
}

// What is discarded does not run, also if it was about to run again.
func TestRule05_DiscardOfALetterThatIsBeingReplayed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Retry.Attempts = 1
		s := newService(t, b, catalog(), cfg)
		runs := 0
		cqrs.On(s.p, func(context.Context, note) error { runs++; return context.DeadlineExceeded }, cqrs.SkipDead())
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("1", "x", ""))
		synctest.Wait()
		err := b.Do(t.Context(), func(ctx context.Context) error {
			if _, err := s.p.Replay(ctx, "1"); err != nil {
				return err
			}
			_, err := s.p.Discard(ctx, "1")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if runs != 1 {
			t.Errorf("the handler ran %d times, want once, before the discard", runs)
		}
		s.deliver("shop.commands", noteMsg("2", "x", ""))
		synctest.Wait()
		if n, err := s.p.Discard(t.Context(), "2"); n != 1 || err != nil { // nothing is parked for it
			t.Errorf("Discard = %d, %v", n, err)
		}
	})
}

// A scheduled message that has to queue up behind others still comes no earlier than its time.
func TestScheduledMessageBehindAParkedOneKeepsItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		s := newService(t, b, catalog(), b.config())
		start, failed := time.Now(), false
		cqrs.On(s.p, func(_ context.Context, n note) error {
			if n.Text == "first" && !failed {
				failed = true
				return cqrs.Later(time.Minute, errNotNow)
			}
			j.add(n.Text + "=" + time.Since(start).Round(time.Minute).String())
			return nil
		})
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("1", "x", "first"))
		synctest.Wait()
		m := noteMsg("2", "x", "second")
		m.Metadata[cqrs.HeaderDeliverAt] = start.Add(time.Hour).UTC().Format(time.RFC3339Nano)
		s.deliver("shop.commands", m)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if got := j.String(); got != "first=1m0s second=1h0m0s" {
			t.Errorf("handled %q", got)
		}
	})
}

var errNotNow = errors.New("not now")
