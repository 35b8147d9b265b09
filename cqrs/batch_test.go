package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

const reply = "caller.replies"

// oneBatch delivers messages while the only lane is busy, so that it finds them all at once: with an event that it has
// had already, and that nobody handles.
func (s *service) oneBatch(topic string, msgs ...*message.Message) {
	s.t.Helper()
	s.run()
	synctest.Wait()
	s.mu.Lock() // the lane's transaction waits here; the rest queues up
	s.state.inbox["shop/had"] = true
	s.deliver(topic, msg("had", "test.unheard", "", "{}", cqrs.HeaderKind, "event"))
	synctest.Wait()
	s.deliver(topic, msgs...)
	synctest.Wait()
	s.mu.Unlock()
	synctest.Wait()
}

func TestRule01_ABusinessErrorDoesNotCostTheBatch(t *testing.T) {
	t.Parallel()
	for _, reruns := range []int{0, 2} {
		t.Run(fmt.Sprintf("reruns=%d", reruns), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { businessErrors(t, reruns) })
		})
	}
}

func businessErrors(t *testing.T, reruns int) {
	b := newDB()
	b.reruns = reruns
	cfg := b.config()
	cfg.Lanes = 1
	s := newService(t, b, catalog(), cfg)
	cqrs.Handle(s.p, func(ctx context.Context, c place) (receipt, error) {
		b.add(ctx, "tried", 1)
		if c.SKU == "hat" {
			return receipt{}, cqrs.Reject("sold_out", errors.New("no hats left"))
		}
		b.add(ctx, "placed", 1)
		return receipt{c.Order}, s.s.Publish(ctx, placed{c.Order})
	})
	var all []*message.Message
	for i := range 20 {
		sku := "sock"
		if i%2 == 0 {
			sku = "hat"
		}
		all = append(all, placeMsg(fmt.Sprint("m", i), fmt.Sprint("o", i), sku,
			cqrs.HeaderReplyTo, reply, cqrs.HeaderToken, fmt.Sprint("t", i)))
	}
	s.oneBatch("shop.commands", all...)
	for _, m := range all {
		if !acked(t, m) {
			t.Fatalf("%s is not acknowledged", m.UUID)
		}
	}
	if got := b.row("placed"); got != 10 {
		t.Errorf("placed = %d, want 10", got)
	}
	if got := b.row("tried"); got != 10 {
		t.Errorf("a refusal's write was not undone: tried = %d, want 10", got)
	}
	if b.commits > 3 {
		t.Errorf("%d commits for one batch", b.commits)
	}
	if got := len(b.sentTo("shop.events")); got != 10 {
		t.Errorf("%d events, want 10", got)
	}
	replies := b.sentTo(reply)
	if len(replies) != 20 {
		t.Fatalf("%d replies, want 20", len(replies))
	}
	for _, m := range replies {
		env := cqrs.EnvelopeFrom(m)
		var i int
		if _, err := fmt.Sscanf(env.Token, "t%d", &i); err != nil {
			t.Fatal(err)
		}
		a, err := cqrs.ParseAnswer(&cqrs.Delivery{Envelope: env, Payload: m.Payload})
		if err != nil {
			t.Fatal(err)
		}
		refused := a.Outcome == cqrs.OutcomeRejected
		if refused != (i%2 == 0) || refused && a.Rejection.Error() != "sold_out: no hats left" {
			t.Errorf("reply to %s = %+v", env.Token, a)
		}
		if env.Causation != fmt.Sprint("m", i) || env.Kind != cqrs.KindReply {
			t.Errorf("reply's envelope = %+v", env)
		}
	}
}

func TestRule01_ATechnicalErrorUndoesItsMessageAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		b.reruns = 1
		cfg := b.config()
		cfg.Lanes = 1
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(ctx context.Context, n note) error {
			b.add(ctx, n.Order, 1)
			if n.Text == "bad" {
				return errors.New("broken")
			}
			return nil
		})
		s.oneBatch("shop.commands", noteMsg("1", "a", "ok"), noteMsg("2", "b", "bad"), noteMsg("3", "b", "ok"),
			noteMsg("4", "c", "ok"), noteMsg("5", "a", "ok"))
		if b.row("a") != 2 || b.row("b") != 0 || b.row("c") != 1 {
			t.Errorf("rows = a:%d b:%d c:%d, want 2 0 1", b.row("a"), b.row("b"), b.row("c"))
		}
		b.read(func(st *tables) {
			var ids []string
			for _, r := range st.parked {
				ids = append(ids, r.ID)
			}
			if !slices.Equal(ids, []string{"2", "3"}) {
				t.Errorf("parked = %v, want the failed message and the one behind it", ids)
			}
			if len(st.parked) > 0 && (st.parked[0].Attempt != 1 || st.parked[0].Failures[0].Error != "broken") {
				t.Errorf("parked head = %+v", st.parked[0])
			}
		})
		s.stop()
	})
}

func TestRule01_HandleBatchRunsAgainWithoutWhatFailed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes = 1
		s := newService(t, b, catalog(), cfg)
		var sizes []int
		cqrs.HandleBatch(s.p, func(ctx context.Context, items []*cqrs.Item[place, receipt]) error {
			sizes = append(sizes, len(items))
			for _, it := range items {
				switch it.Message.SKU {
				case "bad":
					b.add(ctx, "damage", 1)
					it.Fail(errors.New("broken"))
				case "hat":
					it.Fail(cqrs.Reject("sold_out", nil))
				default:
					b.add(ctx, "placed", 1)
					it.Reply(receipt{it.Message.Order})
				}
			}
			return nil
		})
		s.oneBatch("shop.commands",
			placeMsg("1", "a", "sock", cqrs.HeaderReplyTo, reply),
			placeMsg("2", "b", "bad", cqrs.HeaderReplyTo, reply),
			placeMsg("3", "b", "sock", cqrs.HeaderReplyTo, reply),
			placeMsg("4", "c", "hat", cqrs.HeaderReplyTo, reply),
			placeMsg("5", "d", "sock", cqrs.HeaderReplyTo, reply))
		if b.row("placed") != 2 || b.row("damage") != 0 {
			t.Errorf("placed %d damage %d, want 2 and 0; calls of %v", b.row("placed"), b.row("damage"), sizes)
		}
		if got := len(b.sentTo(reply)); got != 3 {
			t.Errorf("%d replies, want 3: two results and a refusal", got)
		}
		s.stop()
	})
}

func TestRule01_ABatchHandlerThatFailsRunsOneByOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes = 1
		s := newService(t, b, catalog(), cfg)
		s.p.Consume(func(ctx context.Context, ds []*cqrs.Delivery) error {
			for _, d := range ds {
				b.add(ctx, d.Message.(placed).Order, 1)
				if d.Message.(placed).Order == "bad" {
					return errors.New("broken")
				}
			}
			return nil
		}, cqrs.FromTypes("shop.placed"))
		var all []*message.Message
		for _, o := range []string{"a", "b", "bad", "c", "a"} {
			all = append(all, msg(fmt.Sprint("m", len(all)), "shop.placed", o, fmt.Sprintf(`{"Order":%q}`, o)))
		}
		s.oneBatch("shop.events", all...)
		if b.row("a") != 2 || b.row("b") != 1 || b.row("c") != 1 || b.row("bad") != 0 {
			t.Errorf("a %d b %d c %d bad %d", b.row("a"), b.row("b"), b.row("c"), b.row("bad"))
		}
		s.stop()
	})
}

func TestRule02_IDsAreClaimedOnceSortedAndDistinct(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes = 1
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(ctx context.Context, n note) error { b.add(ctx, n.Order, 1); return nil })
		all := []*message.Message{
			noteMsg("z", "a", ""), noteMsg("b", "b", ""), noteMsg("z", "a", ""), noteMsg("a", "c", ""), noteMsg("b", "b", ""),
		}
		s.oneBatch("shop.commands", all...)
		again := noteMsg("z", "a", "")
		s.deliver("shop.commands", again)
		synctest.Wait()
		if b.row("a") != 1 || b.row("b") != 1 || b.row("c") != 1 {
			t.Errorf("a message ran twice: a %d b %d c %d", b.row("a"), b.row("b"), b.row("c"))
		}
		for _, m := range append(all, again) {
			if !acked(t, m) {
				t.Errorf("%s is not acknowledged", m.UUID)
			}
		}
		if st := s.p.Stats(); st.Duplicates != 1+3 || st.Handled != 3 { // one kept the lane busy
			t.Errorf("stats = %+v", st)
		}
	})
}

// A batch handler that sorts its items, as one that takes locks in one order does, gives each caller its own answer.
func TestABatchHandlerMaySortItsItems(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes = 1
		s := newService(t, b, catalog(), cfg)
		sizes := 0
		cqrs.HandleBatch(s.p, func(_ context.Context, items []*cqrs.Item[place, receipt]) error {
			slices.Reverse(items)
			sizes = max(sizes, len(items))
			for _, it := range items {
				it.Reply(receipt{it.Message.Order})
			}
			return nil
		})
		s.oneBatch("shop.commands",
			placeMsg("1", "a", "x", cqrs.HeaderReplyTo, reply), placeMsg("2", "b", "x", cqrs.HeaderReplyTo, reply),
			placeMsg("3", "c", "x", cqrs.HeaderReplyTo, reply), placeMsg("4", "d", "x", cqrs.HeaderReplyTo, reply))
		got := map[string]string{}
		for _, m := range b.sentTo(reply) {
			got[m.Metadata[cqrs.HeaderCausation]] = string(m.Payload)
		}
		want := map[string]string{"1": `{"Order":"a"}`, "2": `{"Order":"b"}`, "3": `{"Order":"c"}`, "4": `{"Order":"d"}`}
		if sizes != 4 || !maps.Equal(got, want) {
			t.Errorf("batches of at most %d are answered with %v", sizes, got)
		}
	})
}
