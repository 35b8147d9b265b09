package localbus_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs/localbus"
)

func TestANackRedeliversInOrder(t *testing.T) {
	bubble(t, localbus.Config{Partitions: 1}, func(r *rig) {
		in := r.subscribe(r.Context(), "g", "t")
		res := r.publish("t", keyed("k", "1", "2", "3", "4", "5")...)
		got := r.read(in)
		r.expect(got, "1", "2", "3", "4", "5")
		got[0].Ack()
		got[3].Ack() // out of order, before the nack is seen
		got[1].Nack()
		r.expect(r.read(in)) // rests
		got[4].Ack()         // still counts
		time.Sleep(time.Millisecond)
		again := r.read(in)
		r.expect(again, "2", "3")
		ack(again...)
		r.returns(res, nil)
	})
}

func TestANackedMessageIsGivenUpInTheEnd(t *testing.T) {
	bubble(t, localbus.Config{Attempts: 3}, func(r *rig) {
		in := r.subscribe(r.Context(), "g", "t")
		res := r.publish("t", keyed("k", "good", "bad")...)
		nacks := 0
		for range 3 {
			for _, m := range r.read(in) {
				if m.UUID == "good" {
					m.Ack()
				} else {
					nacks++
					m.Nack()
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
		r.returns(res, localbus.ErrNacked, 1)
		if nacks != 3 {
			t.Fatalf("delivered %d times, want 3", nacks)
		}
		r.expect(r.read(in))
	})
}

func TestBackoffGrowsToATenthOfASecond(t *testing.T) {
	bubble(t, localbus.Config{Attempts: 12}, func(r *rig) {
		in := r.subscribe(r.Context(), "g", "t")
		res := r.publish("t", keyed("k", "1")...)
		start := time.Now()
		for range 12 {
			(<-in).Nack()
		}
		r.returns(res, localbus.ErrNacked, 0)
		// 1+2+4+…+64 ms, then four times 100 ms.
		if took := time.Since(start); took != (127+400)*time.Millisecond {
			t.Fatalf("took %v", took)
		}
	})
}

func TestALeavingSubscriberHandsOverInOrder(t *testing.T) {
	bubble(t, localbus.Config{Partitions: 1, Drain: time.Second}, func(r *rig) {
		ctx, crash := context.WithCancel(r.Context())
		first, second := r.subscribe(ctx, "g", "t"), r.subscribe(r.Context(), "g", "t")
		res := r.publish("t", keyed("k", "1", "2", "3", "4")...)
		held := r.read(first)
		r.expect(held, "1", "2", "3", "4")
		held[0].Ack()
		crash()
		r.expect(r.read(second))
		held[1].Ack() // within the drain
		time.Sleep(time.Second)
		got := r.read(second)
		r.expect(got, "3", "4")
		held[2].Ack() // too late to count
		r.pending(res)
		ack(got...)
		r.returns(res, nil)
	})
}

func TestWhatALeavingSubscriberHasNotReadMovesAtOnce(t *testing.T) {
	bubble(t, localbus.Config{Partitions: 1, Drain: time.Hour}, func(r *rig) {
		ctx, crash := context.WithCancel(r.Context())
		first, second := r.subscribe(ctx, "g", "t"), r.subscribe(r.Context(), "g", "t")
		res := r.publish("t", keyed("k", "1", "2", "3")...)
		synctest.Wait()
		read := <-first
		read.Ack()
		crash()
		got := r.read(second)
		r.expect(got, "2", "3")
		ack(got...)
		r.returns(res, nil)
	})
}

func TestAGroupVanishesAndComesBack(t *testing.T) {
	bubble(t, localbus.Config{Wait: time.Minute}, func(r *rig) {
		ctx, crash := context.WithCancel(r.Context())
		in := r.subscribe(ctx, "g", "t")
		res := r.publish("t", keyed("k", "1", "2")...)
		r.expect(r.read(in), "1", "2")
		crash()
		more := r.publish("t", keyed("k", "3")...)
		time.Sleep(30 * time.Second)
		r.pending(res)
		r.pending(more)
		back := r.subscribe(r.Context(), "g", "t")
		got := r.read(back)
		r.expect(got, "1", "2", "3")
		ack(got...)
		r.returns(res, nil)
		r.returns(more, nil)
	})
}

func TestAGroupThatStaysAwayIsAnError(t *testing.T) {
	bubble(t, localbus.Config{Wait: time.Minute, Drain: -1}, func(r *rig) {
		ctx, crash := context.WithCancel(r.Context())
		in := r.subscribe(ctx, "g", "t")
		res := r.publish("t", keyed("k", "1", "2")...)
		ack(r.read(in)[0])
		synctest.Wait()
		crash()
		time.Sleep(time.Minute)
		r.returns(res, localbus.ErrAbsent, 1)
	})
}

func TestSubscribersOfAGroupShareKeys(t *testing.T) {
	bubble(t, localbus.Config{}, func(r *rig) {
		a, b := r.subscribe(r.Context(), "g", "t"), r.subscribe(r.Context(), "g", "t")
		var msgs []*message.Message
		for i := range 500 {
			msgs = append(msgs, keyed(fmt.Sprint("key", i%50), fmt.Sprint(i))...)
		}
		res := r.publish("t", msgs...)
		owner := map[string]int{}
		for who, got := range [][]*message.Message{r.read(a), r.read(b)} {
			if len(got) == 0 || len(got) == len(msgs) {
				t.Fatalf("subscriber %d got %d of %d", who, len(got), len(msgs))
			}
			for _, m := range got {
				k := m.Metadata["ce_partitionkey"]
				if o, ok := owner[k]; ok && o != who {
					t.Fatalf("key %s went to both", k)
				}
				owner[k] = who
			}
			ack(got...)
		}
		// What did not fit the channels comes now.
		ack(r.read(a)...)
		ack(r.read(b)...)
		r.returns(res, nil)
	})
}

func TestAPartitionMovesOnlyWhenAllIsAcked(t *testing.T) {
	bubble(t, localbus.Config{Partitions: 2}, func(r *rig) {
		first := r.subscribe(r.Context(), "g", "t")
		var all []<-chan error
		for i := range 8 {
			all = append(all, r.publish("t", keyed(fmt.Sprint(i), fmt.Sprint(i, "-old"))...))
		}
		held := r.read(first)
		second := r.subscribe(r.Context(), "g", "t")
		for i := range 8 {
			all = append(all, r.publish("t", keyed(fmt.Sprint(i), fmt.Sprint(i, "-new"))...))
		}
		stay := r.read(first) // the partition that the first one keeps
		r.expect(r.read(second))
		ack(held...)
		moved := r.read(second)
		if len(stay) != 0 && len(stay)+len(moved) != 8 {
			t.Fatalf("%d stayed, %d moved", len(stay), len(moved))
		}
		ack(stay...)
		ack(moved...)
		ack(r.read(first)...)
		ack(r.read(second)...)
		for _, res := range all {
			r.returns(res, nil)
		}
	})
}
