package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// parkedIDs returns the IDs of what is parked, in order.
func (b *db) parkedIDs() (ids []string) {
	b.read(func(s *tables) {
		for _, p := range s.parked {
			ids = append(ids, p.ID)
		}
	})
	return ids
}

// Of two messages of a key in one call of a batch handler, the second fails for good; the first, which went well, fails
// when the call is repeated without the second. What the second had seen is undone, so it has not failed yet.
func TestRule01_WhatFailsBehindAnotherIsJudgedAfterIt(t *testing.T) {
	t.Parallel()
	for _, opts := range [][]cqrs.HandlerOption{nil, {cqrs.SkipDead()}} {
		synctest.Test(t, func(t *testing.T) {
			b := newDB()
			cfg := b.config()
			cfg.Lanes = 1
			s := newService(t, b, catalog(), cfg)
			calls := 0
			cqrs.HandleBatch(s.p, func(_ context.Context, items []*cqrs.Item[place, receipt]) error {
				calls++
				for _, it := range items {
					switch {
					case it.Message.SKU == "second" && calls == 1:
						it.Fail(fmt.Errorf("%w: what the first left behind", cqrs.ErrUndecodable))
					case it.Message.SKU == "first" && calls == 2:
						it.Fail(errors.New("not now"))
					}
				}
				return nil
			}, opts...)
			s.oneBatch("shop.commands", placeMsg("1", "k", "first"), placeMsg("2", "k", "second"))
			if got := fmt.Sprint(b.parkedIDs()); got != "[1 2]" || len(b.state.dead) > 0 {
				t.Errorf("parked %v, dead %v, want [1 2] and none", got, b.state.dead)
			}
			time.Sleep(time.Minute)
			s.stop()
			if st := s.p.Stats(); st.Handled != 2 {
				t.Errorf("stats = %+v, want both handled", st)
			}
		})
	}
}

// The same with the refusal of a handler of one message, whose type a batch handler consumes as well.
func TestRule01_WhatIsRejectedBehindAnotherIsJudgedAfterIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes = 1
		s := newService(t, b, catalog(), cfg)
		calls := 0
		cqrs.Handle(s.p, func(_ context.Context, p place) (receipt, error) {
			calls++
			switch calls {
			case 2: // the second message
				return receipt{}, cqrs.Reject("no", errors.New("no"))
			case 3: // the first once more
				return receipt{}, errors.New("not now")
			}
			return receipt{p.Order}, nil
		})
		s.p.Consume(func(context.Context, []*cqrs.Delivery) error { return nil }, cqrs.FromTypes("shop.place"))
		s.oneBatch("shop.commands", placeMsg("1", "k", "first"), placeMsg("2", "k", "second"))
		if got := fmt.Sprint(b.parkedIDs()); got != "[1 2]" || len(b.state.dead) > 0 {
			t.Errorf("parked %v, dead %v, want [1 2] and none", got, b.state.dead)
		}
		time.Sleep(time.Minute)
		s.stop()
	})
}

// The session ends while a batch handler runs, whose last message fails. The first comes again, and so does the last.
func TestRule04_SessionEndsWhileTheLastOfABatchFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes = 1
		s := newService(t, b, catalog(), cfg)
		session, end := context.WithCancel(t.Context())
		var ran []string
		s.p.Consume(func(_ context.Context, ds []*cqrs.Delivery) error {
			for i, d := range ds {
				ran = append(ran, d.Envelope.ID)
				if i > 0 && session.Err() == nil {
					end()
					d.Err = errors.New("not now")
				}
			}
			return nil
		}, cqrs.FromTypes("shop.note"))
		one, two := noteMsg("1", "k", ""), noteMsg("2", "k", "")
		again := []*message.Message{one.Copy(), two.Copy()}
		one.SetContext(session)
		two.SetContext(session)
		s.oneBatch("shop.commands", one, two)
		s.deliver("shop.commands", again...) // in the next session
		time.Sleep(time.Minute)
		s.stop()
		if got := fmt.Sprint(ran); got != "[1 2 1 2]" {
			t.Errorf("ran %v, want both again, in order", got)
		}
	})
}

// A batch of a session that has ended runs one by one, and another process parks a message of its key meanwhile. The
// first is given back, and what follows must not go to that queue before it.
func TestRule04_WhatIsTakenDoesNotJoinAQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes = 1
		s := newService(t, b, catalog(), cfg)
		session, end := context.WithCancel(t.Context())
		refused, parked := false, false
		b.refuse = func(st *tables) error {
			switch {
			case st.inbox["shop/1"] && st.inbox["shop/2"] && !refused:
				refused = true
				end()
				return errors.New("it cannot commit, once")
			case refused && !parked:
				parked = true
				st.parked = append(st.parked, parkedRow{Parked: cqrs.Parked{Blocked: true, Record: cqrs.Record{
					Group: "shop", ID: "0", Queue: "shop.commands|k", Topic: "shop.commands", Type: "shop.note", Key: "k",
				}}})
			}
			return nil
		}
		cqrs.On(s.p, func(context.Context, note) error { return nil })
		one, two := noteMsg("1", "k", ""), noteMsg("2", "k", "")
		one.SetContext(session)
		two.SetContext(session)
		s.oneBatch("shop.commands", one, two)
		s.stop()
		if got := fmt.Sprint(b.parkedIDs()); got != "[0]" || !nacked(one) || !nacked(two) {
			t.Errorf("parked %v, given back %t, %t: want [0] and both", got, nacked(one), nacked(two))
		}
	})
}
