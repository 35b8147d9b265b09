package localbus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs/localbus"
)

func TestPublishReturnsOnceEveryGroupHasAcked(t *testing.T) {
	bubble(t, localbus.Config{}, func(r *rig) {
		a, b := r.subscribe(r.Context(), "a", "t"), r.subscribe(r.Context(), "b", "t")
		res := r.publish("t", keyed("k", "1", "2")...)
		atA, atB := r.read(a), r.read(b)
		r.expect(atA, "1", "2")
		r.expect(atB, "1", "2")
		ack(atA...)
		ack(atB[0])
		r.pending(res)
		ack(atB[1])
		r.returns(res, nil)
	})
}

func TestRule18_PublishWaitsForADeclaredGroup(t *testing.T) {
	bubble(t, localbus.Config{}, func(r *rig) {
		r.bus.Declare("late", "t")
		early := r.subscribe(r.Context(), "early", "t")
		res := r.publish("t", keyed("k", "1")...)
		r.pending(res)
		if n := len(r.read(early)); n != 0 {
			t.Fatalf("%d messages handed out though a group is absent", n)
		}
		late := r.subscribe(r.Context(), "late", "t")
		ack(r.read(late)...)
		r.pending(res)
		ack(r.read(early)...)
		r.returns(res, nil)
	})
}

func TestRule18_PublishWaitsForAGroupKnownByName(t *testing.T) {
	bubble(t, localbus.Config{Groups: []string{"named"}, Discard: true}, func(r *rig) {
		res := r.publish("t", keyed("k", "1")...)
		r.pending(res)
		ack(r.read(r.subscribe(r.Context(), "named", "t"))...)
		r.returns(res, nil)
	})
}

// A group without a name, as an unset variable makes it, is awaited like others; who would read as one is told.
func TestRule18_AGroupNeedsAName(t *testing.T) {
	bubble(t, localbus.Config{Groups: []string{""}, Discard: true, Wait: time.Minute}, func(r *rig) {
		res := r.publish("t", keyed("k", "1")...)
		time.Sleep(time.Minute)
		r.returns(res, localbus.ErrAbsent, 0)
		if _, err := r.bus.Subscriber(""); err == nil {
			t.Error("a subscriber of no group")
		}
	})
}

func TestRule18_AnAbsentGroupIsAnErrorAfterWait(t *testing.T) {
	bubble(t, localbus.Config{Wait: time.Minute}, func(r *rig) {
		r.bus.Declare("absent", "t")
		res := r.publish("t", keyed("k", "1", "2")...)
		time.Sleep(time.Minute - 1)
		r.pending(res)
		time.Sleep(time.Nanosecond)
		r.returns(res, localbus.ErrAbsent, 0, 1)
	})
}

func TestRule18_ATopicThatNobodyReads(t *testing.T) {
	bubble(t, localbus.Config{}, func(r *rig) {
		r.returns(r.publish("t", keyed("k", "1")...), localbus.ErrNoReader, 0)
	})
}

func TestRule18_DiscardDropsWhatNobodyReads(t *testing.T) {
	bubble(t, localbus.Config{Discard: true}, func(r *rig) {
		r.returns(r.publish("t", keyed("k", "1")...), nil)
	})
}

func TestRule18_PublishingInsideATransactionIsRefused(t *testing.T) {
	type tx struct{}
	in := func(ctx context.Context) bool { return ctx.Value(tx{}) != nil }
	bubble(t, localbus.Config{InTransaction: in}, func(r *rig) {
		r.subscribe(r.Context(), "g", "t")
		msgs := keyed("k", "1", "2")
		msgs[1].SetContext(context.WithValue(r.Context(), tx{}, true))
		r.returns(r.publish("t", msgs...), localbus.ErrInTransaction)
	})
}

func TestTheFirstMessagesContextBoundsPublish(t *testing.T) {
	bubble(t, localbus.Config{}, func(r *rig) {
		in := r.subscribe(r.Context(), "g", "t")
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		msgs := slices.Concat(keyed("a", "1"), keyed("b", "2"), keyed("c", "3"))
		msgs[0].SetContext(ctx)
		res := r.publish("t", msgs...)
		got := r.read(in)
		for _, m := range got {
			if m.UUID == "2" {
				m.Ack()
			}
		}
		time.Sleep(time.Second)
		r.returns(res, context.DeadlineExceeded, 0, 2)
		for _, m := range got {
			if m.Context().Err() == nil {
				t.Errorf("message %s was given back and its context goes on", m.UUID)
			}
		}
	})
}

func TestAGivenUpMessageFreesItsPartition(t *testing.T) {
	bubble(t, localbus.Config{Partitions: 1, Window: 1}, func(r *rig) {
		in := r.subscribe(r.Context(), "g", "t")
		ctx, cancel := context.WithCancel(r.Context())
		hung := keyed("a", "hung")
		hung[0].SetContext(ctx)
		first := r.publish("t", hung...)
		r.expect(r.read(in), "hung")
		second := r.publish("t", keyed("b", "next")...)
		r.expect(r.read(in))
		cancel()
		r.returns(first, context.Canceled, 0)
		got := r.read(in)
		r.expect(got, "next")
		ack(got...)
		r.returns(second, nil)
	})
}

func TestWindowBoundsUnackedMessages(t *testing.T) {
	bubble(t, localbus.Config{Partitions: 1, Window: 4}, func(r *rig) {
		in := r.subscribe(r.Context(), "g", "t")
		res := r.publish("t", keyed("k", "1", "2", "3", "4", "5", "6")...)
		got := r.read(in)
		r.expect(got, "1", "2", "3", "4")
		ack(got[0])
		more := r.read(in)
		r.expect(more, "5")
		ack(got...)
		ack(more...)
		ack(r.read(in)...)
		r.returns(res, nil)
	})
}

func TestManyUnackedMessagesAreDelivered(t *testing.T) {
	bubble(t, localbus.Config{}, func(r *rig) {
		in := r.subscribe(r.Context(), "g", "t")
		var msgs []*message.Message
		for i := range 1000 {
			msgs = append(msgs, keyed(fmt.Sprint("key", i%37), fmt.Sprint(i))...)
		}
		res := r.publish("t", msgs...)
		got := r.read(in)
		last := map[string]int{}
		for _, m := range got {
			var n int
			fmt.Sscan(m.UUID, &n)
			if k := m.Metadata["ce_partitionkey"]; n < last[k] {
				t.Fatalf("key %s: %d after %d", k, n, last[k])
			} else {
				last[k] = n
			}
		}
		if len(got) != len(msgs) {
			t.Fatalf("%d of %d delivered before the first ack", len(got), len(msgs))
		}
		slices.Reverse(got)
		ack(got...)
		r.returns(res, nil)
	})
}

func TestEveryGroupGetsItsOwnCopy(t *testing.T) {
	bubble(t, localbus.Config{}, func(r *rig) {
		a, b := r.subscribe(r.Context(), "a", "t"), r.subscribe(r.Context(), "b", "t")
		sent := keyed("k", "1")
		sent[0].Metadata["x"] = "y"
		res := r.publish("t", sent...)
		atA := r.read(a)
		atA[0].Metadata["x"] = "changed"
		atB := r.read(b)
		if atB[0].Metadata["x"] != "y" || sent[0].Metadata["x"] != "y" || string(atB[0].Payload) != "1" {
			t.Fatalf("a group sees what another one did: %v, %v", atB[0].Metadata, sent[0].Metadata)
		}
		ack(atA[0], atB[0])
		r.returns(res, nil)
	})
}

func TestMessageContexts(t *testing.T) {
	type key struct{}
	bubble(t, localbus.Config{}, func(r *rig) {
		ctx, cancel := context.WithCancel(context.WithValue(r.Context(), key{}, "v"))
		in := r.subscribe(ctx, "g", "t")
		res := r.publish("t", keyed("k", "1", "2")...)
		got := r.read(in)
		if got[0].Context().Value(key{}) != "v" || got[0].Context().Err() != nil {
			t.Fatal("not the context of Subscribe")
		}
		got[0].Ack()
		synctest.Wait()
		if got[0].Context().Err() == nil || got[1].Context().Err() != nil {
			t.Fatal("the ack of a message ends its context and no other")
		}
		cancel()
		synctest.Wait()
		if got[1].Context().Err() == nil {
			t.Fatal("the context outlives the subscription")
		}
		got[1].Ack()
		r.returns(res, nil)
	})
}

func TestLag(t *testing.T) {
	bubble(t, localbus.Config{}, func(r *rig) {
		r.bus.Declare("g", "other")
		in := r.subscribe(r.Context(), "g", "t")
		res := r.publish("t", keyed("k", "1", "2", "3")...)
		got := r.read(in)
		ack(got[0])
		synctest.Wait()
		if lag := r.bus.Lag("g"); lag["t"] != 2 || lag["other"] != 0 || len(lag) != 2 {
			t.Fatalf("lag %v", lag)
		}
		ack(got...)
		r.returns(res, nil)
		if lag := r.bus.Lag("g"); lag["t"] != 0 {
			t.Fatalf("lag %v", lag)
		}
	})
}

func TestForgetFreesPublishers(t *testing.T) {
	bubble(t, localbus.Config{}, func(r *rig) {
		gone, stays := r.subscribe(r.Context(), "gone", "t"), r.subscribe(r.Context(), "stays", "t")
		res := r.publish("t", keyed("k", "1", "2")...)
		ack(r.read(stays)...)
		r.expect(r.read(gone), "1", "2")
		r.pending(res)
		r.bus.Forget("gone")
		r.returns(res, nil)
		if _, open := <-gone; open {
			t.Fatal("the channel of a forgotten group is open")
		}
		res = r.publish("t", keyed("k", "3")...)
		ack(r.read(stays)...)
		r.returns(res, nil)
	})
}

func TestClose(t *testing.T) {
	bubble(t, localbus.Config{}, func(r *rig) {
		r.bus.Declare("absent", "a")
		in := r.subscribe(r.Context(), "g", "t")
		waiting, under := r.publish("a", keyed("k", "1")...), r.publish("t", keyed("k", "1")...)
		r.expect(r.read(in), "1")
		if err := r.bus.Close(); err != nil {
			t.Fatal(err)
		}
		r.returns(waiting, localbus.ErrClosed, 0)
		r.returns(under, localbus.ErrClosed, 0)
		r.returns(r.publish("t", keyed("k", "2")...), localbus.ErrClosed, 0)
		if _, open := <-in; open {
			t.Fatal("the channel is open")
		}
		if _, err := r.bus.Subscriber("g"); !errors.Is(err, localbus.ErrClosed) {
			t.Fatalf("Subscriber: %v", err)
		}
	})
}

func TestClosedHandles(t *testing.T) {
	bubble(t, localbus.Config{Discard: true}, func(r *rig) {
		sub, err := r.bus.Subscriber("g")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(r.pub.Close(), sub.Close(), sub.Close()); err != nil {
			t.Fatal(err)
		}
		r.returns(r.publish("t", keyed("k", "1")...), localbus.ErrClosed)
		if _, err := sub.Subscribe(r.Context(), "t"); !errors.Is(err, localbus.ErrClosed) {
			t.Fatalf("Subscribe: %v", err)
		}
		if err := r.bus.Publisher().Publish("t", keyed("k", "1")...); err != nil {
			t.Fatalf("closing a publisher closed the bus: %v", err)
		}
	})
}
