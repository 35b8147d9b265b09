package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// Of a batch whose session ends while it runs no other message is begun: another process has them by then.
func TestRule06_ABatchStopsWhenItsSessionEnds(t *testing.T) {
	t.Parallel()
	for _, unit := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			b := newDB()
			cfg := b.config()
			if !unit {
				cfg = cqrs.ProcessorConfig{Subscribe: b.subscriber}
			}
			cfg.Lanes = 1
			s := newService(t, b, catalog(), cfg)
			ctx, revoke := context.WithCancel(t.Context())
			var ended atomic.Bool
			cqrs.On(s.p, func(context.Context, note) error {
				if ended.Load() {
					t.Error("a handler began after the session had ended")
				}
				time.Sleep(5 * time.Second)
				return nil
			})
			var all []*message.Message
			for i := range 40 {
				m := noteMsg(fmt.Sprint(i), fmt.Sprint("k", i), "x")
				m.SetContext(ctx)
				all = append(all, m)
			}
			s.oneBatch("shop.commands", all...)
			time.Sleep(6 * time.Second)
			ended.Store(true)
			revoke()
			time.Sleep(time.Hour)
			synctest.Wait()
			back := 0
			for _, m := range all {
				if !acked(t, m) {
					back++
				}
			}
			if back == 0 {
				t.Error("the session ended after the batch")
			}
		})
	}
}

// What waits in memory for its next try is given back when its session ends: the whole group waits for that.
func TestRule06_HeldMessagesAreGivenBackWhenTheirSessionEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes, cfg.Parking = 1, nil
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(context.Context, note) error { return cqrs.Later(10*time.Minute, errors.New("not now")) })
		ctx, revoke := context.WithCancel(t.Context())
		first, behind, other := noteMsg("1", "k", "1"), noteMsg("2", "k", "2"), noteMsg("3", "l", "3")
		first.SetContext(ctx)
		behind.SetContext(ctx)
		s.oneBatch("shop.commands", first, behind, other)
		time.Sleep(time.Second)
		start := time.Now()
		revoke()
		<-first.Nacked()
		<-behind.Nacked()
		if waited := time.Since(start); waited > 0 {
			t.Errorf("given back after %v", waited)
		}
		select {
		case <-other.Nacked():
			t.Error("one of another session was given back, too")
		default:
		}
	})
}
