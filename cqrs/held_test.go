package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// A key that was set aside has more messages than a batch takes. The first batch of them cannot commit and runs one by
// one: its messages do not go behind those that are still held.
func TestRule04_APartOfAHeldQueueKeepsItsPlace(t *testing.T) {
	t.Parallel()
	for _, retried := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := newDB()
			cfg := b.config()
			cfg.Lanes, cfg.MaxBatch, cfg.Retry.Max = 1, 2, 10*time.Second
			if retried { // from memory
				cfg.Parking = nil
			}
			s := newService(t, b, catalog(), cfg)
			start := time.Now()
			refused := false
			b.refuse = func(st *tables) error {
				one, two, three := st.inbox["shop/1"], st.inbox["shop/2"], st.inbox["shop/3"]
				switch {
				case one && !retried && time.Since(start) < 5*time.Second:
					return errors.New("neither as done nor as failed")
				case one && two && !three && !refused:
					refused = true
					return errors.New("not both, once")
				}
				return nil
			}
			var ran []string
			failures := 0
			cqrs.On(s.p, func(_ context.Context, n note) error {
				if retried && n.Text == "1" && (failures == 0 || refused && failures == 1) {
					failures++
					return errors.New("not now")
				}
				ran = append(ran, n.Text)
				return nil
			})
			s.run()
			synctest.Wait()
			s.deliver("shop.commands", noteMsg("1", "k", "1"))
			synctest.Wait()
			s.deliver("shop.commands", noteMsg("2", "k", "2"), noteMsg("3", "k", "3"), noteMsg("4", "k", "4"))
			time.Sleep(5 * time.Minute)
			s.stop()
			if n := len(ran); n < 4 || fmt.Sprint(ran[n-4:]) != "[1 2 3 4]" || !refused {
				t.Errorf("ran %v (refused: %t), want 1 2 3 4 at the end", ran, refused)
			}
		})
	}
}

// A key was set aside when a scheduled message of it becomes due. Its order counts from then on: it does not overtake.
func TestRule14_AScheduledMessageGoesBehindWhatIsHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Retry.Max = 10 * time.Second
		s := newService(t, b, catalog(), cfg)
		start := time.Now()
		b.refuse = func(st *tables) error {
			if st.inbox["shop/1"] && time.Since(start) < 5*time.Second {
				return errors.New("neither as done nor as failed")
			}
			return nil
		}
		var ran []string
		cqrs.On(s.p, func(_ context.Context, n note) error {
			if time.Since(start) > time.Second {
				ran = append(ran, n.Text)
			}
			return nil
		})
		s.run()
		synctest.Wait()
		later := noteMsg("2", "k", "2")
		later.Metadata[cqrs.HeaderDeliverAt] = start.Add(3 * time.Second).UTC().Format(time.RFC3339Nano)
		s.deliver("shop.commands", later)
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("1", "k", "1"))
		time.Sleep(5 * time.Minute)
		s.stop()
		if got := fmt.Sprint(ran); got != "[1 2]" {
			t.Errorf("ran %v, want 1 before 2", got)
		}
	})
}

// An ID is what a foreign sender chooses: here the name of its own queue.
func TestAMessageIsCalledLikeItsQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		s := newService(t, b, catalog(), b.config())
		var ran []string
		failed := false
		cqrs.On(s.p, func(_ context.Context, n note) error {
			if n.Text == "first" && !failed {
				failed = true
				return errors.New("not now")
			}
			ran = append(ran, n.Text)
			return nil
		})
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("shop.commands|k", "k", "first"))
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("2", "k", "second"))
		time.Sleep(5 * time.Minute)
		s.stop()
		if got := fmt.Sprint(ran); got != "[first second]" {
			t.Errorf("ran %v", got)
		}
	})
}
